/// Which of the batch's tokens the rows of a router are, when ranks of a tensor-parallel group share them.
#pragma once

#include <cstdint>

#include "core/error.h"
#include "parallel/tensor_parallel.h"

namespace hysparse {

/// `slice`, or [0, rows) when all tokens are here; of sequences of seq_len tokens.
inline TokenSlice slice_of_rows(const TokenSlice& slice, std::int64_t rows, std::int64_t seq_len) {
  const TokenSlice result = slice.group != nullptr ? slice : TokenSlice{nullptr, 0, rows, rows};
  HYSPARSE_CHECK(seq_len >= 1 && result.total % seq_len == 0, "{} tokens in sequences of {}", result.total,
                 seq_len);
  HYSPARSE_CHECK(result.begin >= 0 && result.end - result.begin == rows && result.end <= result.total,
                 "{} rows for tokens [{}, {}) of {}", rows, result.begin, result.end, result.total);
  return result;
}

}  // namespace hysparse
