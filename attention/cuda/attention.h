/// cpu/attention.h with device tensors: q, k, v, out, dout and the gradients of q, k, v of one dtype, f32 or
/// bf16; sinks f32 or bf16; lse, scores and dsinks f32. Head sizes are at most 256, in bf16 multiples of 16
/// (128 is the tuned one). bf16 runs on tensor cores with sums in f32; f32 is exact (no TF32) and slow.
/// Deterministic.
///
/// Choosing blocks in bf16 takes at most 128 heads per group (64 for head sizes above 128). Backward is that of
/// training: as many keys as queries, from position 0.
#pragma once

#include "attention/cpu/attention.h"

namespace hysparse::cuda {

void attention_forward(const Stream& stream, const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern,
                       const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                       const Tensor& out, const Tensor& lse, const BlockLists* chosen,
                       const Tensor& scores = {});

void attention_backward(const Stream& stream, const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                        const Tensor& out, const Tensor& lse, const Tensor& dout,
                        const cpu::AttentionGradients& gradients);

}  // namespace hysparse::cuda
