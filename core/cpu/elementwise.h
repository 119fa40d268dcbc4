/// Elementwise kernels. Outputs may alias inputs element for element.
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// Elements a thread must have to be worth waking.
inline constexpr std::int64_t elementwise_grain = 1 << 14;

/// out += in; f32, f64 and i64.
void add_in_place(const Stream& stream, const Tensor& out, const Tensor& in);
/// out = a + b.
void add(const Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out);

}  // namespace hysparse::cpu
