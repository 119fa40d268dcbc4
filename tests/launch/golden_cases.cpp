#include "tests/launch/golden_cases.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "data/formats/raw_tokens.h"
#include "launch/evaluate.h"
#include "launch/loaded_model.h"
#include "model/export_names.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;

fs::path golden_directory() {
  return fs::path(HYSPARSE_SOURCE_DIR) / "tests" / "golden";
}

}  // namespace

std::vector<std::string> golden_cases() {
  std::vector<std::string> cases;
  for (const auto& entry : fs::directory_iterator(golden_directory())) {
    if (fs::exists(entry.path() / "golden.json")) cases.push_back(entry.path().filename().string());
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

void compare_with_golden(const std::string& name, DType dtype, Device device, GoldenTolerance tolerance) {
  const fs::path directory = golden_directory() / name;
  std::ifstream in(directory / "golden.json");
  const nlohmann::json golden = nlohmann::json::parse(in);
  const RawTokenFile tokens((directory / "tokens.bin").string());
  SequentialWindows windows(tokens, golden.at("seq_len").get<std::int64_t>());
  LoadedModel loaded(directory.string(), dtype, true, device);
  const Evaluation result = evaluate(loaded.model(), windows, windows.windows(), loaded.stream(), true);
  const double expected = golden.at("loss").get<double>();
  EXPECT_EQ(result.sequences, golden.at("sequences").get<std::int64_t>());
  EXPECT_LT(std::abs(result.loss - expected), tolerance.loss * std::abs(expected))
      << result.loss << " " << expected;

  const SafetensorsReader gradients((directory / "grads.safetensors").string());
  std::size_t compared = 0;
  for (const ParameterSet::Entry& entry : loaded.parameters().entries()) {
    if (!entry.declaration.trainable) continue;
    for (const ExportName& n : export_names({&entry.declaration, 1})) {
      const Tensor ours = n.of(entry.parameter.grad).to_device(Device{});
      if (gradients.find(n.name) == nullptr) {  // the reference never reached it (an expert without tokens)
        for (const double g : ours.to(DType::f64).to_vector<double>()) EXPECT_EQ(g, 0.0) << n.name;
        continue;
      }
      EXPECT_LT(relative_error(ours, gradients.read(n.name, DType::f64)), tolerance.gradient) << n.name;
      ++compared;
    }
  }
  EXPECT_EQ(compared, gradients.entries().size());
}

}  // namespace hysparse::testing
