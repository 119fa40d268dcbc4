/// cpu/router.h with device tensors: scores, weights and their gradients f32, dlogits f32 or bf16.
#pragma once

#include "moe/cpu/router.h"

namespace hysparse::cuda {

/// One warp a token, in a fixed order of sums.
void router_forward(const Stream& stream, const cpu::RouterForward& args, const MoeConfig& config);
void router_backward(const Stream& stream, const cpu::RouterBackward& args, const MoeConfig& config);

void balanced_choices(const Stream& stream, std::int64_t first_token, std::int64_t num_experts,
                      const Tensor& ids);
void count_assignments(const Stream& stream, const Tensor& ids, const Tensor& counts);
void count_open_sequence(const Stream& stream, const Tensor& ids, std::int64_t sequence, const Tensor& counts);
void sum_open_sequence(const Stream& stream, const Tensor& gathered, std::int64_t ranks, std::int64_t sequence,
                       const Tensor& taken);
/// One block a sequence.
void drop_over_capacity(const Stream& stream, const cpu::DropOverCapacity& args);

void count_by_sequence(const Stream& stream, const Tensor& ids, std::int64_t first_token, std::int64_t seq_len,
                       const Tensor& counts);
void load_balance_forward(const Stream& stream, const Tensor& shares, std::int64_t slots,
                          const Tensor& probabilities, std::int64_t first_token, std::int64_t seq_len,
                          const Tensor& losses);
void load_balance_backward(const Stream& stream, const Tensor& shares, std::int64_t first_token,
                           std::int64_t seq_len, const Tensor& scale, const Tensor& dprobabilities, bool add);
void z_loss_forward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& losses);
void z_loss_backward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& scale,
                     const Tensor& dlogits, bool add);

}  // namespace hysparse::cuda
