/// Document masks. A sequence of T tokens may be packed from several documents, one after another; with masks a
/// token sees tokens of its own document alone, and positions count from the document's first token.
///
/// `documents`, document starts: i32 [S*T], for every token the index within its sequence of the first token of
/// its document that is in the sequence (0 for a document cut at the sequence's front). Tensors of starts are
/// undefined where there are no masks; then every token sees its whole past.
#pragma once

#include "core/tensor.h"

namespace hysparse {

/// Fails unless `documents` (on the CPU) are starts as above: documents[t] is documents[t - 1], or t for the
/// first token of a document.
void check_documents(const Tensor& documents, std::int64_t sequences, std::int64_t seq_len);

}  // namespace hysparse
