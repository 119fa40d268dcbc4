/// Cross entropy of rows of logits [R, V] with targets i32 [R]; a negative target is ignored.
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// lse [R] = logsumexp of each row; losses f64 [R] = lse - logits[target], 0 where ignored.
void cross_entropy_forward(const Stream& stream, const Tensor& logits, const Tensor& targets, const Tensor& lse,
                           const Tensor& losses);
/// logits <- scale * (exp(logits - lse) - onehot(target)), in place; rows that are ignored become 0.
void cross_entropy_backward(const Stream& stream, const Tensor& logits, const Tensor& targets,
                            const Tensor& lse, double scale);

/// The sum of exp(x[i] - shift) for i in [0, n), gathered in double every 1024 terms, so that wide rows lose no
/// digits in f32.
double sum_of_exponentials(std::int64_t n, const float* x, float shift);
double sum_of_exponentials(std::int64_t n, const double* x, double shift);

}  // namespace hysparse::cpu
