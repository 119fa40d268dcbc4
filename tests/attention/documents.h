/// Sequences packed from documents, for tests.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace hysparse::testing {

/// Starts i32 [S*T] of documents of random lengths, of `mean_length` tokens on average (1: single tokens) and
/// other in every sequence; undefined for mean_length 0.
Tensor random_documents(std::int64_t sequences, std::int64_t seq_len, std::int64_t mean_length);
/// Starts [S*T] of documents of the given lengths, which sum to T, in every sequence.
Tensor documents_of_lengths(std::int64_t sequences, const std::vector<std::int64_t>& lengths);

}  // namespace hysparse::testing
