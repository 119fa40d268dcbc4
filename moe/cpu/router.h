/// Kernels of the router, one token a row. T tokens, X experts, k chosen. Scores and all that is made of them
/// are in the accumulation dtype of the tokens: f32 with bf16 tokens.
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
  bool chosen = false;  ///< ids are given and read
};
void router_forward(const Stream& stream, const RouterForward& args, const MoeConfig& config);

/// ids i32 [T, k]: slot i of token t goes to expert (t * k + i) % num_experts, the first token being
/// first_token.
void balanced_choices(const Stream& stream, std::int64_t first_token, std::int64_t num_experts,
                      const Tensor& ids);

/// counts i64 [X]: how often each expert is in ids.
void count_assignments(const Stream& stream, const Tensor& ids, const Tensor& counts);

/// Of the last tokens of a rank, those of one sequence: counts i64 [X + 1], how often each expert is in ids,
/// then the number of the sequence.
void count_open_sequence(const Stream& stream, const Tensor& ids, std::int64_t sequence, const Tensor& counts);
/// taken i64 [X]: the sum of the counts that the first `ranks` rows of gathered i64 [.., X + 1] have of a
/// sequence.
void sum_open_sequence(const Stream& stream, const Tensor& gathered, std::int64_t ranks, std::int64_t sequence,
                       const Tensor& taken);

/// Drops assignments over the capacity: -1 to ids and 0 to weights [T, k], per sequence of seq_len tokens, by
/// position, then slot. The tokens are [first_token, first_token + T) of all; the first one's sequence has
/// taken i64 [X] before it. dropped i64 [1]: how many.
struct DropOverCapacity {
  Tensor ids, weights, taken;
  std::int64_t first_token, seq_len, capacity;
  Tensor dropped;
};
void drop_over_capacity(const Stream& stream, const DropOverCapacity& args);

/// Overwrites dlogits [T, X] (in the tokens' dtype) with the gradient by way of weights, probabilities and
/// logits (each gradient may be undefined). kept_ids marks dropped assignments, whose weight has no gradient of
/// its own.
struct RouterBackward {
  Tensor scores, ids, kept_ids;
  Tensor dweights, dprobabilities, dlogits_direct;
  Tensor dlogits;
};
void router_backward(const Stream& stream, const RouterBackward& args, const MoeConfig& config);

/// The load-balance loss of tokens [first_token, first_token + T), out of S sequences of seq_len tokens.
/// counts f64 [S, X]: assignments to e of the tokens of each sequence.
void count_by_sequence(const Stream& stream, const Tensor& ids, std::int64_t first_token, std::int64_t seq_len,
                       const Tensor& counts);
/// shares f64 [S, X]: counts of all tokens in, f_e = count / (seq_len * slots) out; losses f64 [S]: X * sum_e
/// f_e * (sum over these tokens of probability / seq_len).
void load_balance_forward(const Stream& stream, const Tensor& shares, std::int64_t slots,
                          const Tensor& probabilities, std::int64_t first_token, std::int64_t seq_len,
                          const Tensor& losses);
/// dprobabilities [T, X] = scale * X * f_e / seq_len (added when `add`); scale [1].
void load_balance_backward(const Stream& stream, const Tensor& shares, std::int64_t first_token,
                           std::int64_t seq_len, const Tensor& scale, const Tensor& dprobabilities, bool add);

/// lse [T]; losses f64 [T] = lse^2.
void z_loss_forward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& losses);
/// dlogits [T, X] = scale * 2 lse softmax(logits) (added when `add`); scale [1].
void z_loss_backward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& scale,
                     const Tensor& dlogits, bool add);

}  // namespace hysparse::cpu
