/// RMSNorm over the rows of a tensor's last dim: y = x * r * weight, r = 1 / sqrt(mean(x^2) + eps).
/// rows R = numel / D.
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// x [.., D], weight [D] -> y like x, r [R]. With `delta` (like x; else undefined) the norm is of x + delta,
/// which is written to `sum`. sum may be x; y aliases nothing.
struct RmsNormForward {
  Tensor x, delta, weight;
  Tensor sum, y, reciprocal;
  double eps;
};
void rms_norm_forward(const Stream& stream, const RmsNormForward& args);

/// d = r * (w dy - xhat mean(w dy xhat)) (+ dsum), xhat = x r; dweight += sum over rows of dy xhat.
/// dsum (or undefined) and dy are read; d goes to dx (added when add_x) and, where defined, to ddelta
/// (add_delta). dx may be dsum when not add_x. dweight or undefined. Rows are summed in blocks whose size
/// depends on R alone, then block by block.
struct RmsNormBackward {
  Tensor x, weight, reciprocal, dy, dsum;
  Tensor dx, ddelta, dweight;
  bool add_x = false, add_delta = false;
};
void rms_norm_backward(const Stream& stream, const RmsNormBackward& args);

}  // namespace hysparse::cpu
