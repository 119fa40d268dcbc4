/// Root-mean-square normalisation (Zhang and Sennrich, 2019), alone and fused with the residual addition before
/// it.
#pragma once

#include "core/tape.h"

namespace hysparse {

/// y = x / sqrt(mean(x^2) + eps) * weight over the last dim. x [.., D], weight [D] -> y like x. The gradient of
/// weight is made with that of x, in one pass over memory.
Var rms_norm(Tape& tape, const Var& x, const Parameter& weight, double eps);

/// The residual stream after an addition, and its norm.
struct ResidualNorm {
  Var sum;   ///< x + delta
  Var norm;  ///< rms_norm(sum)
};
/// add and rms_norm in one pass. x, delta [.., D].
ResidualNorm add_rms_norm(Tape& tape, const Var& x, const Var& delta, const Parameter& weight, double eps);

}  // namespace hysparse
