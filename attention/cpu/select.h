/// The oracle's choice of blocks, for the tokens of one tile.
#pragma once

#include "attention/cpu/tiles.h"

namespace hysparse::cpu {

/// Lists the blocks b of [first, end) whose score, scores[b * stride], is above the threshold and of those
/// equal to it the lowest `equal`, ascending, at most `top`. Fills the rest of out [top] with -1 and returns
/// the count.
template <class T>
std::int32_t list_blocks(const T* scores, std::int64_t stride, std::int64_t first, std::int64_t end,
                         std::int64_t top, T threshold, std::int64_t equal, std::int32_t* out) {
  std::int64_t count = 0;
  for (std::int64_t b = first; b < end && count < top; ++b) {
    const T x = scores[b * stride];
    if (x > threshold || (x == threshold && equal-- > 0)) out[count++] = static_cast<std::int32_t>(b);
  }
  std::fill(out + count, out + top, -1);
  return static_cast<std::int32_t>(count);
}

/// Lists the blocks [first, end), `top` at most.
inline std::int32_t list_all_blocks(std::int64_t first, std::int64_t end, std::int64_t top, std::int32_t* out) {
  for (std::int64_t b = first; b < end; ++b) out[b - first] = static_cast<std::int32_t>(b);
  std::fill(out + end - first, out + top, -1);
  return static_cast<std::int32_t>(end - first);
}

/// Gathers a tile's block maxima and picks the top K blocks of each token. One per worker; memory O(T / B) per
/// lane.
template <class T>
class BlockSelector {
 public:
  /// Fills the tensors of `lists`, K being lists.blocks.dim(2); or `scores` [S*query_len, G, N], where defined.
  BlockSelector(const AttentionSizes& sizes, const KeyPattern& pattern, const TileGrid& grid,
                const BlockLists& lists, const Tensor& scores)
      : sizes_(sizes),
        starts_(sizes, pattern),
        grid_(grid),
        lists_(lists),
        wanted_scores_(scores.defined() ? scores.data<T>() : nullptr),
        score_count_(scores.defined() ? scores.dim(2) : 0),
        top_(scores.defined() ? 0 : lists.blocks.dim(2)),
        width_(round_up_to_lanes<T>(grid.tokens)),
        maxima_((sizes.start + sizes.query_len + lists.block_size - 1) / lists.block_size * grid.lanes),
        scores_((sizes.start + sizes.query_len + lists.block_size - 1) / lists.block_size * width_),
        best_(std::max<std::int64_t>(top_, 1) * width_) {}

  void start(const QueryTile& tile) {
    const std::int64_t first = first_block(tile, 0);
    std::fill_n(maxima_ + first * grid_.lanes, (blocks_seen(tile) - first) * grid_.lanes, lowest);
  }

  /// Takes in the masked logits [segment.count, lanes].
  void add(const Segment& segment, const T* logits) {
    constexpr std::int64_t lanes = vector_lanes<T>;
    for (std::int64_t begin = 0; begin < segment.count;) {
      const std::int64_t block = (segment.key + begin) / lists_.block_size;
      const std::int64_t end = std::min(segment.count, (block + 1) * lists_.block_size - segment.key);
      for (std::int64_t m = 0; m < grid_.lanes; m += lanes) {
        T* kept = maxima_ + block * grid_.lanes + m;
        detail::Vector<T> top, row;
        std::memcpy(&top, kept, sizeof(top));
        for (std::int64_t s = begin; s < end; ++s) {
          std::memcpy(&row, logits + s * grid_.lanes + m, sizeof(row));
          top = row > top ? row : top;
        }
        std::memcpy(kept, &top, sizeof(top));
      }
      begin = end;
    }
  }

  /// Writes the lists or the scores of the tile's tokens. lse [lanes].
  void finish(const QueryTile& tile, const T* lse) {
    const std::int64_t first = first_block(tile, 0), seen = blocks_seen(tile);
    score(first, seen, lse);
    if (wanted_scores_ != nullptr) {
      for (std::int64_t i = 0; i < tile.tokens; ++i) write_scores(tile, i);
      return;
    }
    if (seen - first > top_ && top_ > 0) find_thresholds(first, seen);
    for (std::int64_t i = 0; i < tile.tokens; ++i) emit(tile, i);
  }

 private:
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  std::int64_t blocks_seen(const QueryTile& tile) const {
    return (sizes_.start + tile.first + tile.tokens - 1) / lists_.block_size + 1;
  }
  /// The first block that token i of the tile sees; 0 without documents.
  std::int64_t first_block(const QueryTile& tile, std::int64_t i) const {
    return starts_.of(tile.sequence, tile.first + i) / lists_.block_size;
  }

  /// scores[b, i] = max over heads r of maxima[b, r, i] - lse[r, i]; not-a-number counts as -inf.
  void score(std::int64_t first, std::int64_t seen, const T* lse) {
    for (std::int64_t b = first; b < seen; ++b) {
      T* scores = scores_ + b * width_;
      std::fill_n(scores, width_, lowest);
      for (std::int64_t r = 0; r < sizes_.group_size(); ++r) {
        const T* maxima = maxima_ + b * grid_.lanes + r * grid_.tokens;
        const T* sums = lse + r * grid_.tokens;
        for (std::int64_t i = 0; i < grid_.tokens; ++i) {
          const T x = maxima[i] - sums[i];
          scores[i] = x > scores[i] ? x : scores[i];
        }
      }
    }
  }

  /// best[j, i]: the j-th largest score of token i, by insertion, the tokens across the lanes.
  void find_thresholds(std::int64_t first, std::int64_t seen) {
    T* best = best_;
    std::fill_n(best, top_ * width_, lowest);
    for (std::int64_t i = 0; i < width_; i += vector_lanes<T>) {
      for (std::int64_t b = first; b < seen; ++b) {
        detail::Vector<T> x, held;
        std::memcpy(&x, scores_ + b * width_ + i, sizeof(x));
        for (std::int64_t j = 0; j < top_; ++j) {
          std::memcpy(&held, best + j * width_ + i, sizeof(held));
          const detail::Vector<T> larger = x > held ? x : held;
          x = x > held ? held : x;
          std::memcpy(best + j * width_ + i, &larger, sizeof(larger));
        }
      }
    }
  }

  std::int64_t list_index(const QueryTile& tile, std::int64_t i) const {
    return (tile.sequence * sizes_.query_len + tile.first + i) * sizes_.num_kv_heads + tile.group;
  }
  std::int64_t end_block(const QueryTile& tile, std::int64_t i) const {
    return (sizes_.start + tile.first + i) / lists_.block_size + 1;
  }

  void emit(const QueryTile& tile, std::int64_t i) {
    const std::int64_t list = list_index(tile, i), first = first_block(tile, i), end = end_block(tile, i);
    std::int32_t* out = lists_.blocks.template data<std::int32_t>() + list * top_;
    std::int32_t& count = lists_.counts.template data<std::int32_t>()[list];
    if (end - first <= top_) {
      count = list_all_blocks(first, end, top_, out);
      return;
    }
    count = 0;
    if (top_ == 0) return;
    const T threshold = best_[(top_ - 1) * width_ + i];
    std::int64_t equal = 1;  // places left for blocks that equal the threshold
    for (std::int64_t j = top_ - 2; j >= 0 && best_[j * width_ + i] == threshold; --j) ++equal;
    count = list_blocks<T>(scores_ + i, width_, first, end, top_, threshold, equal, out);
  }

  /// -inf for the blocks that the token does not see.
  void write_scores(const QueryTile& tile, std::int64_t i) {
    const std::int64_t first = first_block(tile, i), end = end_block(tile, i);
    T* out = wanted_scores_ + list_index(tile, i) * score_count_;
    std::fill(out, out + first, lowest);
    for (std::int64_t b = first; b < end; ++b) out[b] = scores_[b * width_ + i];
    std::fill(out + end, out + score_count_, lowest);
  }

  const AttentionSizes& sizes_;
  const DocumentStarts starts_;
  const TileGrid grid_;
  const BlockLists& lists_;
  T* const wanted_scores_;  // null where lists are wanted
  const std::int64_t score_count_, top_, width_;
  Scratch<T> maxima_;  // [N, lanes]
  Scratch<T> scores_;  // [N, width]
  Scratch<T> best_;    // [K, width]
};

}  // namespace hysparse::cpu
