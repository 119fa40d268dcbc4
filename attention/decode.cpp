#include "attention/decode.h"

#include <algorithm>

#include "attention/cpu/decode.h"
#include "attention/cuda/decode.h"
#include "core/backend.h"

namespace hysparse {
namespace {

/// `needed`: rows that the cache must have.
Tensor decode(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
              const cpu::KeyPattern& pattern, const Tensor& sinks, const DecodeShape& shape,
              std::int64_t needed, const BlockLists* chosen, const Tensor& given) {
  HYSPARSE_CHECK(shape.num_kv_heads >= 1 && shape.num_heads % shape.num_kv_heads == 0 && shape.position >= 0,
                 "{} heads, {} groups, position {}", shape.num_heads, shape.num_kv_heads, shape.position);
  HYSPARSE_CHECK(q.rank() == 2 && q.dim(1) == shape.num_heads * shape.head_dim, "q {}", q.shape().str());
  HYSPARSE_CHECK(k.rank() == 2 && k.shape() == v.shape() && k.dim(1) == shape.num_kv_heads * shape.head_dim,
                 "k {} v {}", k.shape().str(), v.shape().str());
  HYSPARSE_CHECK(k.dim(0) >= needed, "a cache of {} rows, {} needed", k.dim(0), needed);
  HYSPARSE_CHECK(!sinks.defined() || sinks.shape() == Shape{shape.num_heads}, "sinks {}", sinks.shape().str());
  HYSPARSE_CHECK(
      k.dtype() == q.dtype() && v.dtype() == q.dtype() &&
      (!sinks.defined() || sinks.dtype() == q.dtype() || sinks.dtype() == accumulation_dtype(q.dtype())));
  const cpu::AttentionSizes sizes{.sequences = 1,
                                  .query_len = q.dim(0),
                                  .start = shape.position,
                                  .key_rows = k.dim(0),
                                  .num_heads = shape.num_heads,
                                  .num_kv_heads = shape.num_kv_heads,
                                  .head_dim = shape.head_dim};
  HYSPARSE_CHECK(!given.defined() || (given.shape() == q.shape() && given.dtype() == q.dtype()), "out {}",
                 given.shape().str());
  const Tensor out = given.defined() ? given : Tensor::empty(q.shape(), q.dtype(), q.device());
  HYSPARSE_LAUNCH(stream, decode_attention, sizes, pattern, q, k, v, sinks, out, chosen);
  return out;
}

}  // namespace

DecodeFullResult decode_full(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                             const DecodeShape& shape, const std::optional<SelectionConfig>& selection,
                             const Tensor& out) {
  const std::int64_t keys = shape.position + q.dim(0);
  DecodeFullResult result;
  if (selection) result.blocks = empty_block_lists(*selection, q.dim(0), shape.num_kv_heads, keys, q.device());
  result.out = decode(stream, q, k, v, {.kind = cpu::KeyPattern::Kind::causal}, {}, shape, keys,
                      result.blocks ? &*result.blocks : nullptr, out);
  return result;
}

Tensor decode_sparse(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                     const BlockLists& blocks, const Tensor& sinks, const DecodeShape& shape,
                     const Tensor& out) {
  HYSPARSE_CHECK(blocks.block_size >= 1 && blocks.blocks.rank() == 3 && blocks.blocks.dim(0) == q.dim(0) &&
                     blocks.blocks.dim(1) == shape.num_kv_heads &&
                     blocks.counts.shape() == (Shape{q.dim(0), shape.num_kv_heads}),
                 "blocks {} counts {}", blocks.blocks.shape().str(), blocks.counts.shape().str());
  return decode(stream, q, k, v, {.kind = cpu::KeyPattern::Kind::blocks, .blocks = blocks}, sinks, shape,
                shape.position + q.dim(0), nullptr, out);
}

Tensor decode_window(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                     std::int64_t window, const Tensor& sinks, const DecodeShape& shape, const Tensor& out) {
  HYSPARSE_CHECK(window >= 1, "window {}", window);
  const std::int64_t keys = shape.position + q.dim(0);
  const std::int64_t needed = window > keys ? keys : std::min(keys, window + q.dim(0) - 1);
  return decode(stream, q, k, v, {.kind = cpu::KeyPattern::Kind::window, .window = window}, sinks, shape,
                needed, nullptr, out);
}

}  // namespace hysparse
