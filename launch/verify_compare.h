/// Is a layout's run equal to one rank's? Losses, gradient norms and (in fp64) the experts' load step by step,
/// gradients parameter by parameter.
#pragma once

#include <string>
#include <vector>

#include "core/dtype.h"
#include "launch/verify_result.h"

namespace hysparse {

/// What may differ. In fp64 rounding alone, carried on by the steps. In fp32 top-k and AdamW amplify rounding,
/// so only the first step is judged; the later ones are reported.
struct VerifyTolerances {
  double steps = 0;      ///< of loss and gradient norm, relative
  double gradients = 0;  ///< of each gradient of step 1, by norm, relative
  bool all_steps = true;
  /// A gradient is compared with zero, at the scale of all gradients together, when its norm is below this
  /// share of theirs: what is left of a sum that cancels is rounding.
  double zero = 0;
  /// Between the scores of a recorded choice and of the own one in its place.
  double margin = 0;
};
/// fp64: 1e-10, 1e-9, every step, zero 1e-12. fp32: 1e-6, 1e-5, step 1, zero 1e-6, margin 1e-5. A GPU in fp32:
/// 1e-5, 1e-3, step 1, zero 1e-5, margin 1e-5.
VerifyTolerances verify_tolerances(DType dtype, Device device = {});

/// |g - r| / |r| of one parameter, or |g - r| / |all r| where r is zero. Copies of the gradient that differ
/// from the owner's count as a difference, too.
struct GradientDifference {
  std::string name;
  double difference = 0;
};

struct VerifyComparison {
  double loss = 0, grad_norm = 0;  ///< largest relative difference of the steps that are judged
  double later = 0;                ///< of both, over the steps that are not
  GradientDifference worst;        ///< of all parameters
  VerifyFlips flips;
  bool passed = true;
  std::vector<std::string> problems;  ///< why it did not pass: the steps, then the worst parameters
};

VerifyComparison compare_results(const VerifyResult& result, const VerifyResult& reference,
                                 const VerifyTolerances& tolerances);

}  // namespace hysparse
