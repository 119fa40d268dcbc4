#include "attention/cpu/tiles.h"

namespace hysparse::cpu {

Segmenter::Segmenter(const AttentionSizes& sizes, const KeyPattern& pattern)
    : sizes_(sizes), pattern_(pattern), starts_(sizes, pattern) {
  if (pattern.kind == KeyPattern::Kind::blocks) {
    const std::int64_t block = pattern.blocks.block_size;
    members_.assign(static_cast<std::size_t>((sizes.start + sizes.query_len + block - 1) / block), 0);
  }
}

/// Keys [begin, end) of the tile: every token that is a member sees keys in [all_from, all_to).
void Segmenter::add_span(std::int64_t begin, std::int64_t end, std::uint64_t members, std::int64_t all_from,
                         std::int64_t all_to, bool all_members) {
  while (begin < end) {
    const std::int64_t row = begin % sizes_.key_rows;
    const std::int64_t count = std::min({end - begin, max_segment, sizes_.key_rows - row});
    segments_.push_back(
        {begin, row, count, members, !all_members || begin < all_from || begin + count > all_to});
    begin += count;
  }
}

const std::vector<Segment>& Segmenter::segments(const QueryTile& tile) {
  segments_.clear();
  const std::int64_t first = sizes_.start + tile.first, last = first + tile.tokens - 1;
  // Starts ascend over the tokens: nobody sees keys before `document`, and everybody's begin by
  // `last_document`.
  const std::int64_t document = starts_.of(tile.sequence, tile.first),
                     last_document = starts_.of(tile.sequence, tile.first + tile.tokens - 1);
  const std::uint64_t everyone = ~std::uint64_t{0} >> (64 - tile.tokens);
  switch (pattern_.kind) {
    case KeyPattern::Kind::causal:
      add_span(document, last + 1, everyone, last_document, first + 1, true);
      break;
    case KeyPattern::Kind::window:
      add_span(std::max(document, first - pattern_.window + 1), last + 1, everyone,
               std::max(last_document, last - pattern_.window + 1), first + 1, true);
      break;
    case KeyPattern::Kind::blocks: {
      const std::int64_t size = pattern_.blocks.block_size, top = pattern_.blocks.blocks.dim(2);
      const std::int32_t* blocks = pattern_.blocks.blocks.data<std::int32_t>();
      const std::int32_t* counts = pattern_.blocks.counts.data<std::int32_t>();
      for (std::int64_t i = 0; i < tile.tokens; ++i) {
        const std::int64_t list =
            (tile.sequence * sizes_.query_len + tile.first + i) * sizes_.num_kv_heads + tile.group;
        for (std::int64_t j = 0; j < counts[list]; ++j) {
          members_[static_cast<std::size_t>(blocks[list * top + j])] |= std::uint64_t{1} << i;
        }
      }
      for (std::int64_t b = 0; b * size <= last; ++b) {
        const std::uint64_t members = std::exchange(members_[static_cast<std::size_t>(b)], 0);
        if (members != 0)
          add_span(std::max(document, b * size), std::min((b + 1) * size, last + 1), members, last_document,
                   first + 1, members == everyone);
      }
      break;
    }
  }
  return segments_;
}

}  // namespace hysparse::cpu
