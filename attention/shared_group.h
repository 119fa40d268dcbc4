/// The oracle's choice where the heads of one group are on several ranks of tp (SharedGroup in attention.h).
#pragma once

#include "attention/attention.h"

namespace hysparse {

/// Uninitialised scores [S*T, 1, N] of this rank's heads, for attention_forward.
Tensor empty_scores(const BlockLists& lists, const AttentionShape& shape, DType dtype);

/// Fills the lists by the largest of the mates' scores. Each mate chooses for a run of rows, [S*T * m / ranks,
/// S*T * (m + 1) / ranks) for mate m: the scores of those go to it and its lists to all, so that all have the
/// same, bitwise. Collective over shared.tp, also across groups. Choosing has no gradient.
void choose_together(const Stream& stream, const Tensor& scores, const AttentionShape& shape,
                     const SharedGroup& shared, const BlockLists& lists);

}  // namespace hysparse
