/// Tensors of one element: losses and what they are summed from.
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// Every element of out (f32 or f64) = value.
void fill(const Stream& stream, const Tensor& out, double value);
/// total f64 [1] = the sum of terms f64 [N], in an order that depends on N alone (here: that of the index).
void sum_terms(const Stream& stream, const Tensor& terms, const Tensor& total);

}  // namespace hysparse::cpu
