/// The router: which experts a token goes to and with what weight. T tokens, X experts, k chosen, D hidden.
#pragma once

#include "core/tape.h"
#include "moe/config.h"
#include "moe/token_slice.h"

namespace hysparse {

struct Routing {
  Tensor expert_ids;     ///< i32 [T, k], by falling score + bias, ties to the lower expert; -1 where a slot was
                         ///< dropped
  Tensor chosen_ids;     ///< i32 [T, k], the same before dropping
  Var weights;           ///< [T, k], this and what follows in the accumulation dtype of x
  Var logits;            ///< [T, X]
  Var probabilities;     ///< [T, X]: scores / sum of scores, for the load-balance loss
  Tensor expert_counts;  ///< i64 [X]: assignments per expert of these tokens, before dropping
  Tensor dropped;        ///< i64 [1]: assignments dropped by the capacity
};

/// logits = x gate^T; scores = softmax or sigmoid; the k experts with the largest scores + bias (bias only
/// picks, may be an undefined tensor); weights = scores of those, divided by their sum when normalize_top_k,
/// times routed_scaling. x [T, D], gate [X, D], bias [X] (any float dtype); scores are f32 where x is bf16; all
/// tokens are a multiple of seq_len. With a capacity factor c each expert takes at most ceil(c * seq_len * k /
/// X) assignments of a sequence, kept by position, then slot; weights of dropped ones are 0 and the others keep
/// theirs.
///
/// Under a slice x is its T rows (T may be 0), and so is the result, the same as of all tokens on one rank; the
/// gradient of gate is of these tokens. With a capacity it is collective over slice.group in forward; never in
/// backward. `chosen` i32 [T, k]: the chosen_ids of an earlier call on the same tokens, taken instead of
/// choosing (recompute).
Routing route(Tape& tape, const Var& x, const Parameter& gate, const Tensor& bias, const MoeConfig& config,
              std::int64_t seq_len, const TokenSlice& slice = {}, const Tensor& chosen = {});

/// Switch load-balance loss: the sum over these tokens' sequences of X * sum_e f_e P_e, with f_e the share of
/// the sequence's seq_len * k assignments (before dropping) that went to e and P_e the mean probability. Scalar
/// Var [1]; the caller divides by the global number of sequences and of MoE layers. Under a slice: these
/// tokens' terms of P_e, whose sum over slice.group is the whole; f_e is of all tokens, by one all_reduce of
/// counts f64 [sequences, X] in forward, on every rank. f_e has no gradient, so backward is local.
Var load_balance_loss(Tape& tape, const Routing& routing, std::int64_t seq_len, const TokenSlice& slice = {});

/// The sum over tokens of logsumexp(logits)^2, scalar Var [1]; the caller divides by tokens and MoE layers.
Var z_loss(Tape& tape, const Routing& routing);

}  // namespace hysparse
