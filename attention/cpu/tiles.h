/// How attention is cut into tiles: a few neighbouring query tokens of one group, and the segments of keys they
/// see.
///
/// Lane m = r * stride + i of a tile holds head r of the group and token i of the tile: products run with
/// tokens and heads across vector lanes, so that maxima and sums over keys need no work across lanes. Lanes
/// without a token are zero queries.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "attention/cpu/attention.h"
#include "attention/cpu/microkernel.h"
#include "core/thread_pool.h"

namespace hysparse::cpu {

/// Most keys of one segment.
inline constexpr std::int64_t max_segment = 64;

/// Lanes of a tile, about: wide tiles where all tokens see much the same keys, narrow ones elsewhere. Measured.
inline std::int64_t wanted_lanes(KeyPattern::Kind kind) {
  return kind == KeyPattern::Kind::causal ? 64 : 32;
}

/// A scratch array of one worker, aligned and counted like a tensor.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t count)
      : tensor_(Tensor::empty({count}, dtype_of<T>)), data_(tensor_.data<T>()) {}
  operator T*() const { return data_; }

 private:
  Tensor tensor_;
  T* data_;
};

/// Keys [key, key + count) of a sequence, in rows [row, row + count).
struct Segment {
  std::int64_t key = 0;
  std::int64_t row = 0;
  std::int64_t count = 0;
  std::uint64_t members =
      0;                ///< bit i: token i of the tile sees this part of the keys (as far as causality allows)
  bool masked = false;  ///< some token does not see some key
};

/// Tiles of one call: `tokens` query tokens each (the last of a sequence may have fewer), `lanes` lanes.
struct TileGrid {
  std::int64_t tokens;
  std::int64_t lanes;
  std::int64_t per_sequence;

  template <class T>
  static TileGrid make(const AttentionSizes& sizes, KeyPattern::Kind kind) {
    const std::int64_t group = sizes.group_size();
    const std::int64_t tokens = std::clamp<std::int64_t>(wanted_lanes(kind) / group, 1,
                                                         std::clamp<std::int64_t>(sizes.query_len, 1, 64));
    return {tokens, round_up_to_lanes<T>(tokens * group), (sizes.query_len + tokens - 1) / tokens};
  }
};

/// Where the documents of a call's query tokens start.
class DocumentStarts {
 public:
  DocumentStarts(const AttentionSizes& sizes, const KeyPattern& pattern)
      : starts_(pattern.documents.defined() ? pattern.documents.data<std::int32_t>() : nullptr),
        query_len_(sizes.query_len) {
    HYSPARSE_CHECK(starts_ == nullptr ||
                   (sizes.start == 0 && sizes.key_rows == sizes.query_len &&
                    pattern.documents.shape() == Shape{sizes.sequences * sizes.query_len}));
  }
  /// 0 without documents.
  std::int64_t of(std::int64_t sequence, std::int64_t token) const {
    return starts_ != nullptr ? starts_[sequence * query_len_ + token] : 0;
  }

 private:
  const std::int32_t* starts_;
  std::int64_t query_len_;
};

struct QueryTile {
  std::int64_t sequence, group;
  std::int64_t first;   ///< query token within the sequence
  std::int64_t tokens;  ///< that exist
};

/// Builds the segments of tiles. One per worker.
class Segmenter {
 public:
  Segmenter(const AttentionSizes& sizes, const KeyPattern& pattern);
  /// In ascending order of keys; valid until the next call.
  const std::vector<Segment>& segments(const QueryTile& tile);

 private:
  void add_span(std::int64_t begin, std::int64_t end, std::uint64_t members, std::int64_t all_from,
                std::int64_t all_to, bool all_members);

  const AttentionSizes& sizes_;
  const KeyPattern& pattern_;
  const DocumentStarts starts_;
  std::vector<std::uint64_t> members_;  // of each block
  std::vector<Segment> segments_;
};

/// Where the lanes of a tile lie, and which keys they see.
template <class T>
struct TileLanes {
  TileLanes(const AttentionSizes& attention_sizes, const KeyPattern& key_pattern, const TileGrid& tile_grid)
      : sizes(attention_sizes),
        pattern(key_pattern),
        starts(attention_sizes, key_pattern),
        grid(tile_grid),
        offsets(grid.lanes),
        rows(grid.lanes),
        from(grid.lanes),
        to(grid.lanes) {}

  void set(const QueryTile& tile) {
    std::fill_n(static_cast<std::int64_t*>(offsets), grid.lanes, -1);
    std::fill_n(static_cast<std::int64_t*>(rows), grid.lanes, -1);
    std::fill_n(static_cast<T*>(from), grid.lanes, T(0));
    std::fill_n(static_cast<T*>(to), grid.lanes, T(0));
    for (std::int64_t r = 0; r < sizes.group_size(); ++r) {
      for (std::int64_t i = 0; i < tile.tokens; ++i) {
        const std::int64_t m = r * grid.tokens + i, token = tile.sequence * sizes.query_len + tile.first + i;
        const std::int64_t position = sizes.start + tile.first + i;
        rows[m] = token * sizes.num_heads + tile.group * sizes.group_size() + r;
        offsets[m] = rows[m] * sizes.head_dim;
        const std::int64_t document = starts.of(tile.sequence, tile.first + i);
        from[m] = static_cast<T>(pattern.kind == KeyPattern::Kind::window
                                     ? std::max(document, position - pattern.window + 1)
                                     : document);
        to[m] = static_cast<T>(position + 1);
      }
    }
  }

  /// Sets the logits [segment.count, lanes] of keys that a lane does not see to -inf.
  void mask(const QueryTile& tile, const Segment& segment, T* logits) {
    constexpr T hidden = -std::numeric_limits<T>::infinity();
    if (pattern.kind == KeyPattern::Kind::blocks) {
      for (std::int64_t r = 0; r < sizes.group_size(); ++r) {
        for (std::int64_t i = 0; i < tile.tokens; ++i) {
          const bool member = (segment.members >> i & 1) != 0;
          to[r * grid.tokens + i] = member ? static_cast<T>(sizes.start + tile.first + i + 1) : T(0);
        }
      }
    }
    const T *low = from, *high = to;
    for (std::int64_t s = 0; s < segment.count; ++s) {
      const T key = static_cast<T>(segment.key + s);
      T* row = logits + s * grid.lanes;
      for (std::int64_t m = 0; m < grid.lanes; ++m) row[m] = (key >= low[m] && key < high[m]) ? row[m] : hidden;
    }
  }

  const AttentionSizes& sizes;
  const KeyPattern& pattern;
  const DocumentStarts starts;
  TileGrid grid;
  Scratch<std::int64_t> offsets;  ///< of the lane's first element in q; -1 for a lane without a token
  Scratch<std::int64_t> rows;     ///< token * H + head, the lane's place in lse; -1 as well
  Scratch<T> from, to;            ///< the lane sees keys in [from, to)
};

/// Runs body(worker, task) for each task, handed out as threads come free; each thread has one Worker made by
/// make().
template <class Make, class Body>
void parallel_workers(const Stream& stream, std::int64_t tasks, const Make& make, const Body& body) {
  std::atomic<std::int64_t> next{0};
  const std::int64_t workers = std::min<std::int64_t>(stream.pool->threads(), tasks);
  stream.pool->parallel_for(workers, 1, [&](std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    auto worker = make();
    for (std::int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) body(worker, task);
  });
}

}  // namespace hysparse::cpu
