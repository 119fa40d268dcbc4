/// The two ends of the model with a vocabulary split over tp: rank r holds rows [r * V / tp, (r + 1) * V / tp)
/// of the embedding and of the head. ids and targets are those of all S*T tokens, the same on every rank. Alone
/// these are the core ops.
#pragma once

#include "core/ops/cross_entropy.h"
#include "parallel/tensor_parallel.h"

namespace hysparse {

/// weight [V / tp, D] at ids (i32 [S*T]) -> the residual stream: foreign ids give zero rows, tp.leave adds up.
/// Throws Error, naming id and vocabulary, for an id outside [0, V). Adjoint: that of leave, then each rank
/// adds the rows of its ids.
Var vocabulary_embedding(Tape& tape, const Tensor& ids, const Parameter& weight, const TensorParallel& tp);

/// linear_cross_entropy of x, which lies as the residual stream and is entered inside, with head [V / tp, D]
/// and targets i32 [S*T]: the same sum on every rank, bitwise. The ranks exchange two doubles per token (local
/// logsumexp, the target's logit), by one all_gather. Throws Error for a target of V or more. Adjoint: that of
/// enter.
CrossEntropy vocabulary_cross_entropy(Tape& tape, const Var& x, const Parameter& head, const Tensor& targets,
                                      const TensorParallel& tp);

}  // namespace hysparse
