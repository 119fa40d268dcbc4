/// Attention of new tokens against cached keys and values, for generation: no tape, same arithmetic as training
/// forward. Symbols as in attention/attention.h; one sequence. The n query tokens have positions `position`,
/// ..., `position` + n - 1; their own keys and values are in the cache already. n is 1 for decoding, more for
/// reading a prompt in pieces. Every result [n, H*E] goes to `out` where that is defined.
#pragma once

#include <cstdint>
#include <optional>

#include "attention/attention.h"

namespace hysparse {

struct DecodeShape {
  std::int64_t num_heads = 1;     ///< H
  std::int64_t num_kv_heads = 1;  ///< G
  std::int64_t head_dim = 1;      ///< E
  std::int64_t position = 0;      ///< of the first query token
};

struct DecodeFullResult {
  Tensor out;                        ///< [n, H*E]
  std::optional<BlockLists> blocks;  ///< blocks [n, G, K], counts [n, G], when a selection was asked for
};

/// Every cached token s <= t. q [n, H*E]; k, v [rows >= position + n, G*E], the token of position p in row p.
DecodeFullResult decode_full(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                             const DecodeShape& shape, const std::optional<SelectionConfig>& selection,
                             const Tensor& out = {});

/// The tokens of the chosen blocks. k, v as for decode_full; `blocks` from decode_full; sinks [H] or undefined.
Tensor decode_sparse(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                     const BlockLists& blocks, const Tensor& sinks, const DecodeShape& shape,
                     const Tensor& out = {});

/// The last `window` tokens. The cache k, v [rows, G*E] is a ring: the token of position p is in row p % rows,
/// and it must hold all that the queries see: rows >= min(position + n, window + n - 1). A contiguous cache is
/// a ring that never wraps.
Tensor decode_window(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                     std::int64_t window, const Tensor& sinks, const DecodeShape& shape,
                     const Tensor& out = {});

}  // namespace hysparse
