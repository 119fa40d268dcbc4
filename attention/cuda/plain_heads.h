/// The kernels of rope.h and gate.h for head sizes that are no multiple of 8: a thread per head, nothing
/// clever. Tiny models in fp32 use them; the tensor cores' attention takes no such sizes.
#pragma once

#include "attention/cpu/gate.h"
#include "attention/cpu/rope.h"

namespace hysparse::cuda::plain {

void norm_rope_forward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& y);
void norm_rope_backward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& dy,
                        const Tensor& dx, bool add_dx, const Tensor& dweight);
void gated_sum_forward(const Stream& stream, std::span<const cpu::GateInput> branches, std::int64_t num_heads,
                       const Tensor& y);
void gated_sum_backward(const Stream& stream, const cpu::GateInput& branch, std::int64_t num_heads,
                        const Tensor& dy, const Tensor& dx, bool add_dx, const Tensor& dlogits,
                        bool add_dlogits);

}  // namespace hysparse::cuda::plain
