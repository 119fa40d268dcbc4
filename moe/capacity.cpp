#include "moe/capacity.h"

#include <algorithm>
#include <cmath>

#include "core/backend.h"
#include "moe/cpu/router.h"
#include "moe/cuda/router.h"

namespace hysparse {
namespace {

/// i64 [X]: assignments per expert that tokens on earlier ranks have in the sequence of this slice's first.
Tensor taken_before(const Stream& stream, const Tensor& ids, std::int64_t num_experts, std::int64_t seq_len,
                    const TokenSlice& slice) {
  if (slice.group == nullptr || slice.group->size() == 1)
    return Tensor::zeros({num_experts}, DType::i64, ids.device());
  // Each rank gives its last token's sequence (-1 without tokens) and what it has of that one.
  std::int64_t sequence = -1, first = 0;
  if (slice.end > slice.begin) {
    sequence = (slice.end - 1) / seq_len;
    first = std::max(slice.begin, sequence * seq_len) - slice.begin;
  }
  const Tensor last = Tensor::empty({num_experts + 1}, DType::i64, ids.device());
  HYSPARSE_LAUNCH(stream, count_open_sequence, ids.slice(first, ids.dim(0)), sequence, last);
  const Tensor all = Tensor::empty({slice.group->size(), num_experts + 1}, DType::i64, ids.device());
  slice.group->all_gather(last, all);
  Tensor taken = Tensor::empty({num_experts}, DType::i64, ids.device());
  HYSPARSE_LAUNCH(stream, sum_open_sequence, all, slice.group->rank(), slice.begin / seq_len, taken);
  return taken;
}

}  // namespace

std::int64_t expert_capacity(const MoeConfig& config, std::int64_t seq_len) {
  return static_cast<std::int64_t>(
      std::ceil(config.capacity_factor * static_cast<double>(seq_len * config.top_k) /
                static_cast<double>(config.num_experts)));
}

Tensor drop_over_capacity(const Stream& stream, const Tensor& ids, const Tensor& weights,
                          const MoeConfig& config, std::int64_t seq_len, const TokenSlice& slice) {
  const Tensor taken = taken_before(stream, ids, config.num_experts, seq_len, slice);
  Tensor dropped = Tensor::empty({1}, DType::i64, ids.device());
  HYSPARSE_LAUNCH(stream, drop_over_capacity,
                  {ids, weights, taken, slice.begin, seq_len, expert_capacity(config, seq_len), dropped});
  return dropped;
}

}  // namespace hysparse
