/// AdamW (Loshchilov and Hutter, 2019) as PyTorch computes it. With g = gradient_scale * gradient, t the step
/// from 1:
///
///   p <- p * (1 - lr * weight_decay)                     where the parameter decays
///   m <- beta1 * m + (1 - beta1) * g
///   v <- beta2 * v + (1 - beta2) * g^2
///   p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"

namespace hysparse {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
};

/// Elements [begin, end) of the flat tensors of one update.
struct UpdateRange {
  std::int64_t begin, end;
  bool weight_decay;
};

/// One step of the ranges, the rest of the tensors is left alone. value, grad, exp_avg, exp_avg_sq: flat, of
/// one size and dtype (f32 or f64). Elements are independent of each other: how they are split over calls and
/// threads does not matter. `rounded`, where defined: bf16 of the same size, which gets the new values of the
/// ranges, rounded to nearest even.
void adamw_update(const Stream& stream, const AdamWConfig& config, std::int64_t step, double lr,
                  double gradient_scale, std::span<const UpdateRange> ranges, const Tensor& value,
                  const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                  const Tensor& rounded = {});

}  // namespace hysparse
