/// Comparison with the float64 reference model on the exports of tests/golden.
#pragma once

#include <string>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"

namespace hysparse::testing {

/// Relative; gradients by their norms.
struct GoldenTolerance {
  double loss, gradient;
};

/// Names of the exports, sorted.
std::vector<std::string> golden_cases();

/// Expects loss and every parameter's gradient of a case to be the reference's, through the same code as
/// `hysparse eval --grads`.
void compare_with_golden(const std::string& name, DType dtype, Device device, GoldenTolerance tolerance);

}  // namespace hysparse::testing
