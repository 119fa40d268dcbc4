/// Attention in f32 with plain multiply-adds: every dot product is one chain in ascending order, as on the CPU.
#pragma once

#include "attention/cuda/attention.h"

namespace hysparse::cuda {

struct KeyWork;
struct Problem;
struct RowStats;

/// attention_forward in f32.
void exact_forward(const Stream& stream, const Problem& problem, const Tensor& q, const Tensor& k,
                   const Tensor& v, const Tensor& sinks, const Tensor& out, const Tensor& lse);
/// scores [S*T, G, N] <- max over heads and visible keys of logit - lse; -inf for blocks not visible.
void exact_scores(const Stream& stream, const Problem& problem, const Tensor& q, const Tensor& k,
                  const Tensor& lse, std::int64_t block_size, const Tensor& scores);
/// dq, dk, dv. stats [S*T*H].
void exact_backward(const Stream& stream, const Problem& problem, const Tensor& q, const Tensor& k,
                    const Tensor& v, const Tensor& dout, const RowStats* stats, const KeyWork& work,
                    const cpu::AttentionGradients& gradients);

}  // namespace hysparse::cuda
