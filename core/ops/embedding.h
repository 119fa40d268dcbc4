/// The token embedding.
#pragma once

#include "core/ops/vocabulary.h"
#include "core/tape.h"

namespace hysparse {

/// weight [V, D] at ids (i32 [T]) -> [T, D]. Throws Error, naming id and vocabulary, for an id outside [0, V)
/// (ids on the CPU: check_tokens).
/// Backward adds rows in order of token: the result does not depend on the number of threads.
Var embedding(Tape& tape, const Tensor& ids, const Parameter& weight);

/// The same where weight holds the given rows of the vocabulary only: zeros for the ids of other rows, so that
/// the sum over the tables is the embedding.
Var embedding(Tape& tape, const Tensor& ids, const Parameter& weight, const VocabularyRows& rows);

}  // namespace hysparse
