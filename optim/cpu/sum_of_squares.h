/// Sums of squares in double, for the gradient norm.
#pragma once

#include <span>

#include "core/tensor.h"

namespace hysparse::cpu {

struct Range {
  std::int64_t begin, end;
};

/// sum f64 [1] = that of x[i]^2 over the ranges of a flat tensor (f32 or f64), in double and in an order that
/// depends on nothing but the ranges (not on the number of threads).
void sum_of_squares(const Stream& stream, const Tensor& x, std::span<const Range> ranges, const Tensor& sum);

}  // namespace hysparse::cpu
