// Parity with the float64 reference model on the GPU, in fp32 without TF32.
#include <gtest/gtest.h>

#include "tests/launch/golden_cases.h"

namespace hysparse::testing {
namespace {

/// Sums in another order than the CPU's, exponentials of the GPU's own.
constexpr GoldenTolerance gpu_tolerance{1e-5, 1e-3};

class CudaGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(CudaGolden, AgreesWithTheReferenceInF32) {
  compare_with_golden(GetParam(), DType::f32, {DeviceType::cuda, 0}, gpu_tolerance);
}

INSTANTIATE_TEST_SUITE_P(Exports, CudaGolden, ::testing::ValuesIn(golden_cases()),
                         [](const auto& golden) { return golden.param; });

}  // namespace
}  // namespace hysparse::testing
