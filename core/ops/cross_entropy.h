/// The language-model head and its loss in one op, so that the logits of all tokens never exist at once.
#pragma once

#include <cstdint>

#include "core/tape.h"

namespace hysparse {

struct CrossEntropy {
  Var loss_sum;              ///< [1], the sum over targets in x's dtype: what backward starts from
  double loss = 0;           ///< the same in double
  std::int64_t targets = 0;  ///< how many targets counted
};

/// The sum over tokens of -log softmax(x head^T)[target]. x [T, D], head [V, D], targets i32 [T]; a negative
/// target is ignored. Throws Error for a target of V or more. Logits live in chunks of tokens of at most 8 MiB
/// (but 64 tokens). When one chunk holds all it is saved; else only the logsumexp, and backward makes each
/// chunk's logits again. Summed in double in order of token. The gradient of head is made with that of x.
CrossEntropy linear_cross_entropy(Tape& tape, const Var& x, const Parameter& head, const Tensor& targets);

}  // namespace hysparse
