// Models that transformers saved, with the logits that it computes (tests/export/check_transformers makes
// them).
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "data/formats/raw_tokens.h"
#include "data/sampler.h"
#include "launch/evaluate.h"
#include "launch/loaded_model.h"

namespace hysparse {
namespace {

class StockClasses : public ::testing::TestWithParam<const char*> {};

TEST_P(StockClasses, LogitsAreThoseOfTransformers) {
  const std::string directory = std::string(HYSPARSE_SOURCE_DIR) + "/tests/export/golden/" + GetParam();
  const Tensor expected = SafetensorsReader(directory + "/logits.safetensors").read("logits", DType::f64);
  const RawTokenFile tokens(directory + "/tokens.bin");
  SequentialWindows windows(tokens, expected.dim(0));
  const LoadedModel loaded(directory, DType::f64, false);
  const Tensor logits = window_logits(loaded.model(), windows, 0, loaded.stream());
  ASSERT_EQ(logits.shape(), expected.shape());
  const std::vector<double> a = logits.to_vector<double>(), b = expected.to_vector<double>();
  double largest = 0, error = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(b[i]));
    error = std::max(error, std::abs(a[i] - b[i]));
  }
  // transformers computes norms, softmax, rotation and the router in float32 even in a float64 model.
  constexpr double tolerance = 3e-6;
  EXPECT_LT(error, tolerance * largest);
}

INSTANTIATE_TEST_SUITE_P(Golden, StockClasses, ::testing::Values("qwen3", "qwen3_moe", "mixtral", "glm4_moe"),
                         [](const auto& which) { return std::string(which.param); });

}  // namespace
}  // namespace hysparse
