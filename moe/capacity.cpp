#include "moe/capacity.h"

#include <algorithm>
#include <cmath>

#include "core/backend.h"
#include "moe/cpu/router.h"

namespace hysparse {
namespace {

/// i64 [X]: assignments per expert that tokens on earlier ranks have in the sequence of this slice's first.
Tensor taken_before(const Tensor& ids, std::int64_t num_experts, std::int64_t seq_len,
                    const TokenSlice& slice) {
  const Tensor taken = Tensor::zeros({num_experts}, DType::i64);
  if (slice.group == nullptr || slice.group->size() == 1) return taken;
  // Each rank gives its last token's sequence (-1 without tokens) and what it has of that one.
  const std::int64_t ranks = slice.group->size(), slots = ids.dim(1);
  const Tensor last = Tensor::zeros({num_experts + 1}, DType::i64);
  std::int64_t* mine = last.data<std::int64_t>();
  mine[num_experts] = -1;
  if (slice.end > slice.begin) {
    mine[num_experts] = (slice.end - 1) / seq_len;
    const std::int64_t first = std::max(slice.begin, mine[num_experts] * seq_len) - slice.begin;
    const std::int32_t* id = ids.data<std::int32_t>();
    for (std::int64_t a = first * slots; a < ids.numel(); ++a) ++mine[id[a]];
  }
  const Tensor all = Tensor::empty({ranks, num_experts + 1}, DType::i64);
  slice.group->all_gather(last, all);
  for (std::int64_t rank = 0; rank < slice.group->rank(); ++rank) {
    const std::int64_t* theirs = all.data<std::int64_t>() + rank * (num_experts + 1);
    if (theirs[num_experts] != slice.begin / seq_len) continue;
    for (std::int64_t e = 0; e < num_experts; ++e) taken.data<std::int64_t>()[e] += theirs[e];
  }
  return taken;
}

}  // namespace

std::int64_t drop_over_capacity(const Stream& stream, const Tensor& ids, const Tensor& weights,
                                const MoeConfig& config, std::int64_t seq_len, const TokenSlice& slice) {
  const auto capacity =
      static_cast<std::int64_t>(std::ceil(config.capacity_factor * static_cast<double>(seq_len * config.top_k) /
                                          static_cast<double>(config.num_experts)));
  const Tensor taken = taken_before(ids, config.num_experts, seq_len, slice);
  return HYSPARSE_LAUNCH(stream, drop_over_capacity, ids, weights, taken, slice.begin, seq_len, capacity);
}

}  // namespace hysparse
