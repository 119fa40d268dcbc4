/// The language-model head and its loss in one op, so that the logits of all tokens never exist at once.
#pragma once

#include <functional>

#include "core/ops/vocabulary.h"
#include "core/tape.h"

namespace hysparse {

struct CrossEntropy {
  Var loss_sum;  ///< [1], the sum over targets, f32 (f64 for f64): what backward starts from
  Tensor loss;   ///< f64 [1], the same; not to be written to
};

/// The sum over tokens of -log softmax(x head^T)[target]. x [T, D], head [V, D], targets i32 [T]; a negative
/// target is ignored. Throws Error for a target of V or more (targets on the CPU: check_targets). Logits, in
/// x's dtype, live in chunks of tokens of at most 8 MiB (but 64 tokens); on a GPU of 256 MiB, or of the bytes
/// of the gradient of head where that is more. When one chunk holds all it is saved; else only the logsumexp,
/// and backward makes each chunk's logits again. Summed in double, in an order that depends on the number of
/// tokens alone. The gradient of head is made with that of x.
CrossEntropy linear_cross_entropy(Tape& tape, const Var& x, const Parameter& head, const Tensor& targets);

/// What every holder of a part of the vocabulary has of each token, f64 [T, 2] -> [parts, T, 2], in an order
/// that is the same for all.
using GatherParts = std::function<Tensor(const Tensor&)>;

/// The same loss from one part of the vocabulary: head holds the given rows, `gather` brings the other parts'
/// logsumexp over their rows and logit of the target (0 where they do not hold it). All parts get the same sum,
/// bitwise. The gradient of x is this part's term of a sum over the parts; that of head is whole.
CrossEntropy linear_cross_entropy(Tape& tape, const Var& x, const Parameter& head, const Tensor& targets,
                                  const VocabularyRows& rows, const GatherParts& gather);

}  // namespace hysparse
