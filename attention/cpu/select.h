/// The oracle's choice of blocks, for the tokens of one tile.
#pragma once

#include "attention/cpu/tiles.h"

namespace hysparse::cpu {

/// Gathers a tile's block maxima and picks the top K blocks of each token. One per worker; memory O(T / B) per
/// lane.
template <class T>
class BlockSelector {
 public:
  /// `lists`: the tensors to fill; K is lists.blocks.dim(2).
  BlockSelector(const AttentionSizes& sizes, const TileGrid& grid, const BlockLists& lists)
      : sizes_(sizes),
        grid_(grid),
        lists_(lists),
        top_(lists.blocks.dim(2)),
        width_(round_up_to_lanes<T>(grid.tokens)),
        maxima_((sizes.start + sizes.query_len + lists.block_size - 1) / lists.block_size * grid.lanes),
        scores_((sizes.start + sizes.query_len + lists.block_size - 1) / lists.block_size * width_),
        best_(std::max<std::int64_t>(top_, 1) * width_) {}

  void start(const QueryTile& tile) {
    std::fill_n(static_cast<T*>(maxima_), blocks_seen(tile) * grid_.lanes, lowest);
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

  /// Writes the lists of the tile's tokens. lse [lanes].
  void finish(const QueryTile& tile, const T* lse) {
    const std::int64_t seen = blocks_seen(tile);
    score(seen, lse);
    if (seen > top_ && top_ > 0) find_thresholds(seen);
    for (std::int64_t i = 0; i < tile.tokens; ++i) emit(tile, i);
  }

 private:
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  std::int64_t blocks_seen(const QueryTile& tile) const {
    return (sizes_.start + tile.first + tile.tokens - 1) / lists_.block_size + 1;
  }

  /// scores[b, i] = max over heads r of maxima[b, r, i] - lse[r, i]; not-a-number counts as -inf.
  void score(std::int64_t seen, const T* lse) {
    for (std::int64_t b = 0; b < seen; ++b) {
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
  void find_thresholds(std::int64_t seen) {
    T* best = best_;
    std::fill_n(best, top_ * width_, lowest);
    for (std::int64_t i = 0; i < width_; i += vector_lanes<T>) {
      for (std::int64_t b = 0; b < seen; ++b) {
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

  /// The blocks above the threshold, and of those equal to it the lowest that still fit.
  void emit(const QueryTile& tile, std::int64_t i) {
    const std::int64_t token = tile.sequence * sizes_.query_len + tile.first + i;
    const std::int64_t list = token * sizes_.num_kv_heads + tile.group;
    const std::int64_t visible = (sizes_.start + tile.first + i) / lists_.block_size + 1;
    std::int32_t* out = lists_.blocks.template data<std::int32_t>() + list * top_;
    std::int64_t count = 0;
    if (visible <= top_) {
      for (; count < visible; ++count) out[count] = static_cast<std::int32_t>(count);
    } else if (top_ > 0) {
      const T threshold = best_[(top_ - 1) * width_ + i];
      std::int64_t equal = 1;  // places left for blocks that equal the threshold
      for (std::int64_t j = top_ - 2; j >= 0 && best_[j * width_ + i] == threshold; --j) ++equal;
      for (std::int64_t b = 0; b < visible && count < top_; ++b) {
        const T x = scores_[b * width_ + i];
        if (x > threshold || (x == threshold && equal-- > 0)) out[count++] = static_cast<std::int32_t>(b);
      }
    }
    std::fill(out + count, out + top_, -1);
    lists_.counts.template data<std::int32_t>()[list] = static_cast<std::int32_t>(count);
  }

  const AttentionSizes& sizes_;
  const TileGrid grid_;
  const BlockLists& lists_;
  const std::int64_t top_, width_;
  Scratch<T> maxima_;  // [N, lanes]
  Scratch<T> scores_;  // [N, width]
  Scratch<T> best_;    // [K, width]
};

}  // namespace hysparse::cpu
