// Parity with the float64 reference model (tests/golden/reference.py): losses and gradients of small random
// exports, in fp64 and fp32.
#include <gtest/gtest.h>

#include "tests/launch/golden_cases.h"

namespace hysparse::testing {
namespace {

/// f32 rounding through some ten layers of sums, and the reference's own float64.
constexpr GoldenTolerance f32_tolerance{1e-5, 1e-4};
constexpr GoldenTolerance f64_tolerance{1e-10, 1e-9};

class Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(Golden, AgreesWithTheReferenceInF64) {
  compare_with_golden(GetParam(), DType::f64, Device{}, f64_tolerance);
}
TEST_P(Golden, AgreesWithTheReferenceInF32) {
  compare_with_golden(GetParam(), DType::f32, Device{}, f32_tolerance);
}

INSTANTIATE_TEST_SUITE_P(Exports, Golden, ::testing::ValuesIn(golden_cases()),
                         [](const auto& golden) { return golden.param; });

TEST(GoldenCases, AreAllThere) {
  EXPECT_GE(golden_cases().size(), 20u);
}

}  // namespace
}  // namespace hysparse::testing
