/// cpu/gate.h with device tensors of one dtype, f32 or bf16; sums in f32. Head sizes are at most 256; multiples
/// of 8 are fast.
#pragma once

#include "attention/cpu/gate.h"

namespace hysparse::cuda {

void gated_sum_forward(const Stream& stream, std::span<const cpu::GateInput> branches, std::int64_t num_heads,
                       const Tensor& y);
void gated_sum_backward(const Stream& stream, const cpu::GateInput& branch, std::int64_t num_heads,
                        const Tensor& dy, const Tensor& dx, bool add_dx, const Tensor& dlogits,
                        bool add_dlogits);

}  // namespace hysparse::cuda
