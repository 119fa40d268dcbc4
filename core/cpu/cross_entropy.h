/// Cross entropy of rows of logits [R, V] with targets i32 [R]; a negative target is ignored.
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// lse [R] = logsumexp of each row; losses f64 [R] = lse - logits[target], 0 where ignored.
void cross_entropy_forward(const Stream& stream, const Tensor& logits, const Tensor& targets, const Tensor& lse,
                           const Tensor& losses);
/// With scale [1] like lse: logits <- scale * (exp(logits - lse) - onehot(target - first)), in place; rows that
/// are ignored become 0. A target - first outside [0, V) has no one.
void cross_entropy_backward(const Stream& stream, const Tensor& logits, const Tensor& targets,
                            std::int64_t first, const Tensor& lse, const Tensor& scale);

/// For logits [R, V] of the ids [first, first + V): part f64 [R, 2] = {logsumexp of the row, logits[target -
/// first] or 0 for a target that is not among them}.
void cross_entropy_part(const Stream& stream, const Tensor& logits, const Tensor& targets, std::int64_t first,
                        const Tensor& part);
/// parts f64 [P, R, 2], of all ids together: lse [R] and losses f64 [R] as cross_entropy_forward makes them.
/// Adds in order of part.
void cross_entropy_merge(const Stream& stream, const Tensor& parts, const Tensor& targets, const Tensor& lse,
                         const Tensor& losses);

/// The sum of exp(x[i] - shift) for i in [0, n), gathered in double every 1024 terms, so that wide rows lose no
/// digits in f32.
double sum_of_exponentials(std::int64_t n, const float* x, float shift);
double sum_of_exponentials(std::int64_t n, const double* x, double shift);

}  // namespace hysparse::cpu
