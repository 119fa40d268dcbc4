/// What the attention kernels are told of a call, and how query rows lie in tiles.
///
/// A tile holds the rows of `tokens` neighbouring query tokens times `heads` heads of one group, token by
/// token, so that all its rows read the same keys. Where a group has more heads than a tile has rows, its heads
/// are cut into `chunks`.
#pragma once

#include "attention/cpu/attention.h"
#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {

/// Division of 0 <= n < 2^31 by a divisor known before the launch.
class Divider {
 public:
  Divider() = default;
  explicit Divider(std::int64_t divisor) : divisor_(static_cast<std::uint32_t>(divisor)) {
    if (divisor_ == 1) return;
    while ((std::uint64_t{1} << (shift_ + 1)) < divisor_) ++shift_;
    multiplier_ = static_cast<std::uint32_t>(((std::uint64_t{1} << (32 + shift_)) + divisor_ - 1) / divisor_);
  }
  __device__ __forceinline__ int divide(int n) const {
    return divisor_ == 1 ? n : static_cast<int>(__umulhi(static_cast<std::uint32_t>(n), multiplier_) >> shift_);
  }
  __device__ __forceinline__ int divisor() const { return static_cast<int>(divisor_); }

 private:
  std::uint32_t divisor_ = 1, multiplier_ = 0, shift_ = 0;  // shift: ceil(log2 divisor) - 1
};

/// Values of a parameter, f32 or bf16.
struct ParameterView {
  const void* data = nullptr;
  bool is_bf16 = false;
  static ParameterView of(const Tensor& t) {
    if (!t.defined()) return {};
    HYSPARSE_CHECK(!t.device().is_cpu() && (t.dtype() == DType::bf16 || t.dtype() == DType::f32));
    return {t.raw(), t.dtype() == DType::bf16};
  }
  __device__ __forceinline__ float operator[](std::int64_t i) const {
    return is_bf16 ? to_float(static_cast<const bf16*>(data)[i]) : static_cast<const float*>(data)[i];
  }
};

/// Sizes as in cpu::AttentionSizes, and the pattern: keys s of (position - window, position], and with `blocks`
/// those of the listed blocks alone.
struct Problem {
  int sequences, query_len, start, key_rows, num_heads, num_kv_heads, head_dim;
  int window;  ///< more than all positions where there is none
  int block_size, top;
  const std::int32_t *blocks, *counts;  ///< null without
  Divider by_group;                     ///< heads of a group
  float scale;                          ///< 1 / sqrt(head_dim)
  /// Document starts [S * query_len], null without: the key's position is no less either. Kernels on tensor
  /// cores have instances of their own for it (`Documents`).
  const std::int32_t* documents;

  Problem(const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern);
  __host__ __device__ int group_size() const { return num_heads / num_kv_heads; }
  std::int64_t query_rows() const { return std::int64_t{sequences} * query_len; }
  /// The starts of a sequence, where there are documents.
  __device__ __forceinline__ const std::int32_t* starts(int sequence) const {
    return documents + static_cast<std::int64_t>(sequence) * query_len;
  }
  /// 0 without documents.
  __device__ __forceinline__ int document(int sequence, int token) const {
    return documents != nullptr ? starts(sequence)[token] : 0;
  }
};

/// The first token of (last, end) whose document starts behind the key `last`, or `end`. Starts ascend.
__device__ __forceinline__ int first_behind(const std::int32_t* starts, int last, int end) {
  for (int low = last + 1; low < end;) {
    const int middle = (low + end) / 2;
    if (starts[middle] > last) {
      end = middle;
    } else {
      low = middle + 1;
    }
  }
  return end;
}

/// Query tokens from `first` on that see keys of [first, first + keys), where no blocks are chosen.
__device__ __forceinline__ int span_tokens(const Problem& p, int sequence, int first, int keys) {
  const int last = min(first + keys, p.query_len) - 1;
  int end =
      static_cast<int>(min(static_cast<std::int64_t>(p.query_len), static_cast<std::int64_t>(last) + p.window));
  if (p.documents != nullptr) end = first_behind(p.starts(sequence), last, end);
  return end - first;
}

struct QueryTiles {
  int tokens, heads, chunks, per_sequence;
  Divider by_heads;

  QueryTiles(const Problem& p, int rows) {
    heads = p.group_size() < rows ? p.group_size() : rows;
    chunks = (p.group_size() + heads - 1) / heads;
    tokens = rows / heads;
    per_sequence = (p.query_len + tokens - 1) / tokens * chunks;
    by_heads = Divider(heads);
  }
  std::int64_t count(const Problem& p) const {
    return std::int64_t{per_sequence} * p.sequences * p.num_kv_heads;
  }
};

/// One tile of a launch.
struct QueryTile {
  int sequence, group;
  int first, tokens;      ///< query tokens within the sequence
  int first_head, heads;  ///< within the group

  /// Tiles with the most keys come first.
  __device__ __forceinline__ QueryTile(const Problem& p, const QueryTiles& tiles, int index) {
    const int slabs = p.sequences * p.num_kv_heads, slab = index % slabs;
    const int at = tiles.per_sequence - 1 - index / slabs;
    sequence = slab / p.num_kv_heads;
    group = slab % p.num_kv_heads;
    first = at / tiles.chunks * tiles.tokens;
    tokens = min(tiles.tokens, p.query_len - first);
    first_head = at % tiles.chunks * tiles.heads;
    heads = min(tiles.heads, p.group_size() - first_head);
  }
  /// token * H + head of row m, or -1 where the tile has no such row.
  __device__ __forceinline__ std::int64_t row(const Problem& p, const QueryTiles& tiles, int m) const {
    const int token = tiles.by_heads.divide(m), head = m - token * tiles.heads;
    if (token >= tokens || head >= heads) return -1;
    return (static_cast<std::int64_t>(sequence) * p.query_len + first + token) * p.num_heads +
           group * p.group_size() + first_head + head;
  }
  /// Position of row m's token, or -1.
  __device__ __forceinline__ int position(const Problem& p, const QueryTiles& tiles, int m) const {
    const int token = tiles.by_heads.divide(m), head = m - token * tiles.heads;
    return token < tokens && head < heads ? p.start + first + token : -1;
  }
  /// First element of the keys of this sequence and group.
  __device__ __forceinline__ std::int64_t keys(const Problem& p) const {
    return (static_cast<std::int64_t>(sequence) * p.key_rows * p.num_kv_heads + group) * p.head_dim;
  }
};

}  // namespace hysparse::cuda
