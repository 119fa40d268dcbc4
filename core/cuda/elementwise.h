/// cpu/elementwise.h with device tensors: f32 and bf16, add_in_place and add also f64 and i64 (losses, counts).
#pragma once

#include "core/cpu/elementwise.h"

namespace hysparse::cuda {

void add_in_place(const Stream& stream, const Tensor& out, const Tensor& in);
void add(const Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out);

/// to = from, converted between f64, f32 and bf16 (round to nearest even).
void convert(const Stream& stream, const Tensor& from, const Tensor& to);

}  // namespace hysparse::cuda
