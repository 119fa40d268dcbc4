/// The AdamW kernel: updates value, exp_avg, exp_avg_sq in place and writes rounded, where it is defined; none
/// may alias grad.
#pragma once

#include <span>

#include "core/tensor.h"
#include "optim/adamw.h"

namespace hysparse {

/// What one step's formula comes down to for every element.
struct AdamWFactors {
  double decay;  ///< 1 - lr * weight_decay
  double beta1, beta2, eps;
  double step_size;        ///< lr / (1 - beta1^t)
  double root_correction;  ///< sqrt(1 - beta2^t)
  double gradient_scale;
};

namespace cpu {

void adamw_update(const Stream& stream, const AdamWFactors& factors, std::span<const UpdateRange> ranges,
                  const Tensor& value, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                  const Tensor& rounded);

}  // namespace cpu
}  // namespace hysparse
