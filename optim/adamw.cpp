#include "optim/adamw.h"

#include <cmath>

#include "core/backend.h"
#include "optim/cpu/adamw.h"
#include "optim/cuda/adamw.h"

namespace hysparse {

void adamw_update(const Stream& stream, const AdamWConfig& config, std::int64_t step, double lr,
                  double gradient_scale, std::span<const UpdateRange> ranges, const Tensor& value,
                  const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq, const Tensor& rounded) {
  HYSPARSE_CHECK(step >= 1, "step {}", step);
  for (const Tensor& t : {grad, exp_avg, exp_avg_sq}) {
    HYSPARSE_CHECK(t.shape() == value.shape() && t.dtype() == value.dtype(), "{} {} for {} {}", t.shape().str(),
                   dtype_name(t.dtype()), value.shape().str(), dtype_name(value.dtype()));
  }
  HYSPARSE_CHECK(!rounded.defined() || (rounded.shape() == value.shape() && rounded.dtype() == DType::bf16),
                 "rounded {} {}", rounded.shape().str(), dtype_name(rounded.dtype()));
  const auto t = static_cast<double>(step);
  const AdamWFactors factors{
      .decay = 1.0 - lr * config.weight_decay,
      .beta1 = config.beta1,
      .beta2 = config.beta2,
      .eps = config.eps,
      .step_size = lr / (1.0 - std::pow(config.beta1, t)),
      .root_correction = std::sqrt(1.0 - std::pow(config.beta2, t)),
      .gradient_scale = gradient_scale,
  };
  HYSPARSE_LAUNCH(stream, adamw_update, factors, ranges, value, grad, exp_avg, exp_avg_sq, rounded);
}

}  // namespace hysparse
