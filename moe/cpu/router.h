/// Kernels of the router, one token a row. T tokens, X experts, k chosen.
#pragma once

#include "core/tensor.h"
#include "moe/config.h"

namespace hysparse::cpu {

/// From logits [T, X]: scores [T, X], their shares probabilities [T, X] (not written where undefined: softmax),
/// ids i32 [T, k] of the largest scores + bias (ties to the lower expert; bias [X] or undefined), weights [T,
/// k].
struct RouterForward {
  Tensor logits, bias;
  Tensor scores, probabilities, ids, weights;
};
void router_forward(const Stream& stream, const RouterForward& args, const MoeConfig& config);

/// Drops assignments over the capacity: -1 to kept_ids (a copy of ids before) and 0 to weights, per sequence of
/// seq_len tokens, by position, then slot. Returns how many.
std::int64_t drop_over_capacity(const Stream& stream, const Tensor& kept_ids, const Tensor& weights,
                                std::int64_t num_experts, std::int64_t seq_len, std::int64_t capacity);

/// Overwrites dlogits [T, X] with the gradient by way of weights, probabilities and logits (each gradient may
/// be undefined). kept_ids marks dropped assignments, whose weight has no gradient of its own.
struct RouterBackward {
  Tensor scores, ids, kept_ids;
  Tensor dweights, dprobabilities, dlogits_direct;
  Tensor dlogits;
};
void router_backward(const Stream& stream, const RouterBackward& args, const MoeConfig& config);

/// shares f64 [S, X]: f_e of each of the S sequences of ids; losses f64 [S]: X * sum_e f_e * mean probability.
void load_balance_forward(const Stream& stream, const Tensor& ids, const Tensor& probabilities,
                          const Tensor& shares, const Tensor& losses);
/// dprobabilities [T, X] = scale * X * f_e / seq_len (added when `add`).
void load_balance_backward(const Stream& stream, const Tensor& shares, double scale,
                           const Tensor& dprobabilities, bool add);

/// lse [T]; losses f64 [T] = lse^2.
void z_loss_forward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& losses);
/// dlogits [T, X] = scale * 2 lse softmax(logits) (added when `add`).
void z_loss_backward(const Stream& stream, const Tensor& logits, const Tensor& lse, double scale,
                     const Tensor& dlogits, bool add);

}  // namespace hysparse::cpu
