/// cpu/adamw.h with device tensors: value, grad, exp_avg, exp_avg_sq f32, rounded bf16 or undefined.
#pragma once

#include "optim/cpu/adamw.h"

namespace hysparse::cuda {

void adamw_update(const Stream& stream, const AdamWFactors& factors, std::span<const UpdateRange> ranges,
                  const Tensor& value, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                  const Tensor& rounded);

}  // namespace hysparse::cuda
