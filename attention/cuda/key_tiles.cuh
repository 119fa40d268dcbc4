/// Walks over the keys that a tile of queries sees, in tiles of `Keys` keys, in ascending order: a span of
/// keys, or the union of the tokens' block lists. Every warp walks by itself; all come to the same tiles.
///
/// Where blocks are smaller than a tile (8 or 16 keys), a tile takes several, one per slot.
#pragma once

#include "attention/cuda/problem.cuh"

namespace hysparse::cuda {

/// Positions of this lane's rows (lane / 4 + 8 half + 16 i of the warp's rows), -1 where there is no row.
template <int RowTiles>
struct LaneRows {
  int position[RowTiles][2];
  __device__ __forceinline__ LaneRows(const Problem& p, const QueryTiles& tiles, const QueryTile& tile,
                                      int row) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
    for (int i = 0; i < RowTiles; ++i) {
      position[i][0] = tile.position(p, tiles, row + 16 * i + lane / 4);
      position[i][1] = tile.position(p, tiles, row + 16 * i + lane / 4 + 8);
    }
  }
};

template <int RowTiles, int Keys, bool Documents>
class SpanTiles {
 public:
  __device__ __forceinline__ SpanTiles(const Problem& p, const QueryTile& tile, const LaneRows<RowTiles>& rows)
      : rows_(rows),
        window_(p.window),
        key_rows_(p.key_rows),
        first_(p.start + tile.first),
        end_(first_ + tile.tokens),
        next_(max(0, first_ - p.window + 1)) {
    if constexpr (Documents) {
      starts_ = p.starts(tile.sequence);
      last_document_ = starts_[end_ - 1];
      next_ = max(next_, starts_[first_]);
    }
  }
  /// Begins with a whole block; before the first prepare().
  __device__ __forceinline__ void start_at_block(const Divider& by_block) {
    if constexpr (Documents) next_ = by_block.divide(next_) * by_block.divisor();
  }

  /// Finds the tile after the current one; false when there is none. advance() makes it the current one.
  __device__ __forceinline__ bool prepare() { return next_ < end_; }
  /// Where key i of the prepared tile lies: its row, or -1 where there is no such key.
  __device__ __forceinline__ int prepared_row(int i) const {
    const int key = next_ + i;
    return key >= end_ ? -1 : key < key_rows_ ? key : key % key_rows_;
  }
  /// Whether its keys are all there, in rows one after the other.
  __device__ __forceinline__ bool prepared_whole() const {
    return next_ + Keys <= end_ && next_ + Keys <= key_rows_;
  }
  __device__ __forceinline__ void advance() {
    current_ = next_;
    next_ += Keys;
  }

  /// First key of the current tile.
  __device__ __forceinline__ int first_key() const { return current_; }
  /// Whether none of the warp's rows sees the tile.
  __device__ __forceinline__ bool skip() const { return false; }
  /// Sets logits of keys that a row does not see to -inf.
  __device__ __forceinline__ void mask(float (&s)[RowTiles][Keys / 8][4]) const {
    if (current_ + Keys - 1 <= first_ && current_ > end_ - 1 - window_ &&
        (!Documents || current_ >= last_document_))
      return;
    const int column = current_ + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < RowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int to = rows_.position[i][j / 2];
        int from = to - window_;
        if constexpr (Documents) from = max(from, starts_[max(to, 0)] - 1);
#pragma unroll
        for (int n = 0; n < Keys / 8; ++n) {
          const int key = column + 8 * n + j % 2;
          if (key > to || key <= from) s[i][n][j] = -INFINITY;
        }
      }
    }
  }

 private:
  const LaneRows<RowTiles>& rows_;
  int window_, key_rows_, first_, end_, next_, current_ = 0;
  const std::int32_t* starts_ = nullptr;  // of the sequence
  int last_document_ = 0;                 // start of the last token's
};

template <int RowTiles, int Keys, bool Documents>
class BlockTiles {
  static_assert(Keys == 32);

 public:
  /// A tile of queries has at most 64 tokens; lane l keeps the places in the lists of tokens l and l + 32.
  __device__ __forceinline__ BlockTiles(const Problem& p, const QueryTile& tile, const LaneRows<RowTiles>& rows)
      : rows_(rows),
        first_(p.start + tile.first),
        end_(first_ + tile.tokens),
        block_size_(p.block_size),
        slot_shift_(p.block_size == 8    ? 3
                    : p.block_size == 16 ? 4
                                         : 5) {
    if constexpr (Documents) {
      starts_ = p.starts(tile.sequence);
      last_document_ = starts_[end_ - 1];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = static_cast<int>(threadIdx.x) % warp_size + i * warp_size;
      next_[i] = none;
      left_[i] = 0;
      list_[i] = p.blocks;
      if (token < tile.tokens) {
        const std::int64_t list =
            (static_cast<std::int64_t>(tile.sequence) * p.query_len + tile.first + token) * p.num_kv_heads +
            tile.group;
        left_[i] = p.counts[list];
        list_[i] = p.blocks + list * p.top;
        if (left_[i] > 0) next_[i] = *list_[i];
      }
    }
  }

  __device__ __forceinline__ bool prepare() {
    if (rest_ > 0) {  // more of a block that is larger than a tile
      prepared_[0] += Keys;
      prepared_count_ = min(rest_, Keys);
      rest_ -= prepared_count_;
      return true;
    }
    prepared_bits_ = 0;
    prepared_count_ = min(block_size_, Keys);
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      if (slot << slot_shift_ >= Keys) continue;
      const int block = __reduce_min_sync(all_lanes, min(next_[0], next_[1]));
      if (slot == 0 && block == none) return false;
      prepared_[slot] = block == none ? none : block * block_size_;
      if (block == none) continue;
      std::uint32_t members[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bool member = next_[i] == block;
        members[i] = __ballot_sync(all_lanes, member);
        if (member) next_[i] = --left_[i] > 0 ? *++list_[i] : none;
      }
#pragma unroll
      for (int i = 0; i < RowTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int token = rows_.position[i][half] - first_;  // < 0: no row
          const std::uint32_t word = token < warp_size ? members[0] : members[1];
          const std::uint32_t bit = token < 0 ? 0 : word >> (token & 31) & 1;
          prepared_bits_ |= bit << (slot * row_bits + 2 * i + half);
        }
      }
    }
    // Keys beyond the last token's own are seen by nobody.
    rest_ = max(0, min(block_size_, end_ - prepared_[0]) - Keys);
    return true;
  }
  __device__ __forceinline__ int prepared_row(int i) const {
    const int slot = i >> slot_shift_, at = i - (slot << slot_shift_), first = pick(prepared_, slot);
    return at < prepared_count_ && first + at < end_ ? first + at : -1;
  }
  __device__ __forceinline__ bool prepared_whole() const {
    return slot_shift_ == 5 && prepared_count_ == Keys && prepared_[0] + Keys <= end_;
  }
  __device__ __forceinline__ void advance() {
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) current_[slot] = prepared_[slot];
    current_bits_ = prepared_bits_;
    current_count_ = prepared_count_;
  }

  __device__ __forceinline__ bool skip() const {
    return __all_sync(all_lanes, current_bits_ == 0);
  }
  __device__ __forceinline__ void mask(float (&s)[RowTiles][Keys / 8][4]) const {
    const int used = Keys >> slot_shift_, width = 1 << slot_shift_;
    const std::uint32_t all_bits = (1u << (used * row_bits)) - 1;
    // Blocks ascend over the slots.
    if (current_bits_ == all_bits && current_count_ == width &&
        pick(current_, used - 1) + width - 1 <= first_ && (!Documents || current_[0] >= last_document_))
      return;
    int from[RowTiles][2] = {};
    if constexpr (Documents) {
#pragma unroll
      for (int i = 0; i < RowTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) from[i][half] = starts_[max(rows_.position[i][half], 0)];
      }
    }
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n) {
      const int slot = 8 * n >> slot_shift_, at = 8 * n - (slot << slot_shift_) + column;
      const int first = pick(current_, slot);
      const std::uint32_t bits = current_bits_ >> (slot * row_bits);
#pragma unroll
      for (int i = 0; i < RowTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int key = at + j % 2;
          const bool sees = (bits >> (2 * i + j / 2) & 1) != 0 && key < current_count_ &&
                            first + key <= rows_.position[i][j / 2] &&
                            (!Documents || first + key >= from[i][j / 2]);
          if (!sees) s[i][n][j] = -INFINITY;
        }
      }
    }
  }

 private:
  static constexpr int slots = 4, row_bits = 2 * RowTiles, none = 1 << 30;

  __device__ __forceinline__ static int pick(const int (&of)[slots], int slot) {
    int x = of[0];
#pragma unroll
    for (int s = 1; s < slots; ++s) x = slot == s ? of[s] : x;
    return x;
  }

  const LaneRows<RowTiles>& rows_;
  int first_, end_, block_size_, slot_shift_;
  int rest_ = 0;  // keys of the prepared block after the prepared tile
  int next_[2], left_[2];
  const std::int32_t* list_[2];
  const std::int32_t* starts_ = nullptr;                             // of the sequence
  int last_document_ = 0;                                            // start of the last token's
  int prepared_[slots] = {none, none, none, none}, current_[slots];  // first keys
  int prepared_count_ = 0, current_count_ = 0;
  std::uint32_t prepared_bits_ = 0,
                current_bits_ = 0;  // bit slot * row_bits + 2 i + half: the row sees the slot's
};

}  // namespace hysparse::cuda
