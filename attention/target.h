/// Where an op writes the gradient of one input.
#pragma once

#include "core/tape.h"

namespace hysparse {

/// The gradient's target, or a scratch tensor like `value` when no gradient is wanted.
inline Gradient::Target target_or_scratch(const std::shared_ptr<Gradient>& grad, const Tensor& value) {
  if (grad) return grad->target();
  return {Tensor::empty(value.shape(), value.dtype(), value.device()), false};
}

}  // namespace hysparse
