/// Block-sparse attention one token at a time: the heads of its group are the rows and the keys lie across the
/// lanes, so that nothing is computed for keys that the token does not see. It suits small groups; where a
/// group's heads fill the lanes, tiles (tiles.h) do that with wider products.
///
/// Keys are packed in panels of vector_lanes keys, transposed: [E, lanes].
#pragma once

#include <vector>

#include "attention/cpu/backward.h"

namespace hysparse::cpu {

template <class T>
struct ForwardData {
  const T *q, *k, *v, *sinks;  ///< sinks: may be null
  T *out, *lse;
};

/// Whether these kernels take the call: chosen blocks, training layout (as many keys as queries, from position
/// 0) and at most half a vector of heads per group.
template <class T>
bool fits_token_rows(const AttentionSizes& sizes, const KeyPattern& pattern) {
  return pattern.kind == KeyPattern::Kind::blocks && sizes.start == 0 && sizes.key_rows == sizes.query_len &&
         sizes.group_size() <= vector_lanes<T> / 2;
}

template <class T>
void token_rows_forward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                        const ForwardData<T>& data);
template <class T>
void token_rows_backward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                         const BackwardData<T>& data, const AttentionGradients& gradients);

/// Keys and values of every slab (sequence and group) as the kernels read them.
template <class T>
class PackedKeys {
 public:
  /// x [S*T, G*E], which must stay; `panels`, `rows`: what will be asked for.
  PackedKeys(const Stream& stream, const AttentionSizes& sizes, const T* x, bool panels, bool rows);
  /// [panels, E, lanes] of the slab; the lanes beyond the last key are zero.
  const T* panels(std::int64_t slab) const {
    return panels_ + slab * panel_count_ * head_dim_ * vector_lanes<T>;
  }
  /// [T, E], row_stride() apart, readable in whole vectors.
  const T* rows(std::int64_t slab) const {
    return padded_ ? padded_rows_ + slab * length_ * row_stride_
                   : x_ + slab / groups_ * length_ * row_stride_ + slab % groups_ * head_dim_;
  }

  std::int64_t row_stride() const { return row_stride_; }

 private:
  const T* x_;
  std::int64_t groups_, length_, head_dim_, panel_count_;
  bool padded_;  // rows are copied with zeros behind, as E is not a multiple of the lanes
  std::int64_t row_stride_;
  Scratch<T> panels_, padded_rows_;
};

/// Tokens of a forward task, and of the smallest part of a backward task.
inline constexpr std::int64_t token_chunk = 32;

/// Consecutive keys that a token sees: keys [key, key + count), at `at` of its row of logits.
struct KeySpan {
  std::int64_t key, count, at;
};

/// The keys of one token: spans, and the panels that cover them, in ascending order. One per worker.
class TokenKeys {
 public:
  TokenKeys(const AttentionSizes& sizes, const KeyPattern& pattern, std::int64_t lanes);
  void set(std::int64_t sequence, std::int64_t group, std::int64_t token);

  const std::vector<KeySpan>& spans() const { return spans_; }
  const std::vector<std::int64_t>& panels() const { return panels_; }
  /// Length of a row of logits: panels * lanes.
  std::int64_t width() const { return static_cast<std::int64_t>(panels_.size()) * lanes_; }
  /// Most that width() can be.
  std::int64_t max_width() const { return max_width_; }

  /// Sets the elements of `rows` rows of logits, `stride` apart, that no span covers to -inf.
  template <class T>
  void mask(T* logits, std::int64_t rows, std::int64_t stride) const {
    constexpr T hidden = -std::numeric_limits<T>::infinity();
    for (const KeySpan& span : spans_) {
      const std::int64_t begin = span.at / lanes_ * lanes_;
      const std::int64_t end = (span.at + span.count + lanes_ - 1) / lanes_ * lanes_;
      if (begin == span.at && end == span.at + span.count) continue;
      for (std::int64_t r = 0; r < rows; ++r) {
        T* row = logits + r * stride;
        for (std::int64_t i = begin; i < span.at; ++i) row[i] = hidden;
        for (std::int64_t i = span.at + span.count; i < end; ++i) row[i] = hidden;
      }
    }
  }

 private:
  void add_span(std::int64_t begin, std::int64_t end);

  const AttentionSizes& sizes_;
  const BlockLists& lists_;
  const DocumentStarts starts_;
  std::int64_t lanes_, max_width_;
  std::vector<KeySpan> spans_;
  std::vector<std::int64_t> panels_;
};

}  // namespace hysparse::cpu
