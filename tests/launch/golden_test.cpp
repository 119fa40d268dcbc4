// Parity with the float64 reference model (tests/golden/reference.py): losses and gradients of small random
// exports, in fp64 and fp32, through the same code as `hysparse eval --grads`.
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

namespace hysparse {
namespace {

namespace fs = std::filesystem;

/// Relative tolerances of the acceptance: f32 rounding through some ten layers of sums, and the reference's own
/// float64.
struct Tolerance {
  double loss, gradient;
};
constexpr Tolerance f32_tolerance{1e-5, 1e-4};
constexpr Tolerance f64_tolerance{1e-10, 1e-9};

fs::path golden_directory() {
  return fs::path(HYSPARSE_SOURCE_DIR) / "tests" / "golden";
}

std::vector<std::string> golden_cases() {
  std::vector<std::string> cases;
  for (const auto& entry : fs::directory_iterator(golden_directory())) {
    if (fs::exists(entry.path() / "golden.json")) cases.push_back(entry.path().filename().string());
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  void compare(DType dtype, Tolerance tolerance) {
    const fs::path directory = golden_directory() / GetParam();
    std::ifstream in(directory / "golden.json");
    const nlohmann::json golden = nlohmann::json::parse(in);
    const RawTokenFile tokens((directory / "tokens.bin").string());
    SequentialWindows windows(tokens, golden.at("seq_len").get<std::int64_t>());
    LoadedModel loaded(directory.string(), dtype, true);
    const Evaluation result = evaluate(loaded.model(), windows, windows.windows(), loaded.stream(), true);
    const double expected = golden.at("loss").get<double>();
    EXPECT_EQ(result.sequences, golden.at("sequences").get<std::int64_t>());
    EXPECT_LT(std::abs(result.loss - expected), tolerance.loss * std::abs(expected))
        << result.loss << " " << expected;

    const SafetensorsReader gradients((directory / "grads.safetensors").string());
    std::size_t compared = 0;
    for (const ParameterSet::Entry& entry : loaded.parameters().entries()) {
      if (!entry.declaration.trainable) continue;
      for (const ExportName& name : export_names({&entry.declaration, 1})) {
        const Tensor ours = name.of(entry.parameter.grad);
        if (gradients.find(name.name) ==
            nullptr) {  // the reference never reached it (an expert without tokens)
          for (const double g : ours.to(DType::f64).to_vector<double>()) EXPECT_EQ(g, 0.0) << name.name;
          continue;
        }
        EXPECT_LT(testing::relative_error(ours, gradients.read(name.name, DType::f64)), tolerance.gradient)
            << name.name;
        ++compared;
      }
    }
    EXPECT_EQ(compared, gradients.entries().size());
  }
};

TEST_P(Golden, AgreesWithTheReferenceInF64) {
  compare(DType::f64, f64_tolerance);
}
TEST_P(Golden, AgreesWithTheReferenceInF32) {
  compare(DType::f32, f32_tolerance);
}

INSTANTIATE_TEST_SUITE_P(Exports, Golden, ::testing::ValuesIn(golden_cases()),
                         [](const auto& golden) { return golden.param; });

TEST(GoldenCases, AreAllThere) {
  EXPECT_GE(golden_cases().size(), 20u);
}

}  // namespace
}  // namespace hysparse
