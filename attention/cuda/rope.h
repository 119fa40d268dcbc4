/// cpu/rope.h with device tensors: x, y, dy, dx f32 or bf16; the table f32; weight f32 or bf16; dweight f32.
/// Head sizes are at most 256; multiples of 8 are fast.
#pragma once

#include "attention/cpu/rope.h"

namespace hysparse::cuda {

Tensor rope_table(const Stream& stream, double theta, std::int64_t rotary_dim, std::int64_t start,
                  std::int64_t length, DType dtype);
void norm_rope_forward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& y);
void norm_rope_backward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& dy,
                        const Tensor& dx, bool add_dx, const Tensor& dweight);

}  // namespace hysparse::cuda
