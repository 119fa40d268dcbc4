#include "attention/cpu/token_rows.h"

namespace hysparse::cpu {

template <class T>
PackedKeys<T>::PackedKeys(const Stream& stream, const AttentionSizes& sizes, const T* x, bool panels, bool rows)
    : x_(x),
      groups_(sizes.num_kv_heads),
      length_(sizes.key_rows),
      head_dim_(sizes.head_dim),
      panel_count_((sizes.key_rows + vector_lanes<T> - 1) / vector_lanes<T>),
      padded_(sizes.head_dim % vector_lanes<T> != 0),
      row_stride_(padded_ ? round_up_to_lanes<T>(head_dim_) : groups_ * head_dim_),
      panels_(panels ? sizes.sequences * groups_ * panel_count_ * head_dim_ * vector_lanes<T> : 0),
      padded_rows_(rows && padded_ ? sizes.sequences * groups_ * length_ * row_stride_ : 0) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  stream.pool->parallel_for(
      sizes.sequences * groups_ * panel_count_, 16, [&](std::int64_t begin, std::int64_t end) {
        std::int64_t offsets[lanes];
        for (std::int64_t task = begin; task < end; ++task) {
          const std::int64_t slab = task / panel_count_, first = task % panel_count_ * lanes;
          for (std::int64_t j = 0; j < lanes; ++j) {
            const std::int64_t row = slab / groups_ * length_ + first + j;
            offsets[j] = first + j < length_ ? (row * groups_ + slab % groups_) * head_dim_ : -1;
          }
          if (panels) {
            gather_transposed<T>(x, offsets, lanes, head_dim_, T(1), panels_ + task * head_dim_ * lanes);
          }
          if (!rows || !padded_) continue;
          for (std::int64_t j = 0; j < lanes && offsets[j] >= 0; ++j) {
            T* to = padded_rows_ + (slab * length_ + first + j) * row_stride_;
            std::copy_n(x + offsets[j], head_dim_, to);
            std::fill(to + head_dim_, to + row_stride_, T(0));
          }
        }
      });
}

TokenKeys::TokenKeys(const AttentionSizes& sizes, const KeyPattern& pattern, std::int64_t lanes)
    : sizes_(sizes), lists_(pattern.blocks), starts_(sizes, pattern), lanes_(lanes) {
  // Unless blocks are whole panels, one may reach into a panel more.
  const std::int64_t panels =
      (lists_.block_size + lanes - 1) / lanes + (lists_.block_size % lanes == 0 ? 0 : 1);
  max_width_ = lists_.blocks.dim(2) * std::min(panels, (sizes.key_rows + lanes - 1) / lanes) * lanes;
}

void TokenKeys::set(std::int64_t sequence, std::int64_t group, std::int64_t token) {
  spans_.clear();
  panels_.clear();
  const std::int64_t list = (sequence * sizes_.query_len + token) * sizes_.num_kv_heads + group;
  const std::int32_t* blocks = lists_.blocks.data<std::int32_t>() + list * lists_.blocks.dim(2);
  const std::int64_t count = lists_.counts.data<std::int32_t>()[list], size = lists_.block_size;
  const std::int64_t document = starts_.of(sequence, token);
  for (std::int64_t i = 0; i < count;) {
    std::int64_t end = i + 1;  // neighbouring blocks make one span
    while (end < count && blocks[end] == blocks[end - 1] + 1) ++end;
    add_span(std::max(document, blocks[i] * size), std::min((blocks[end - 1] + 1) * size, token + 1));
    i = end;
  }
}

void TokenKeys::add_span(std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;  // blocks before the document
  spans_.push_back({begin, end - begin, width() + begin % lanes_});
  for (std::int64_t panel = begin / lanes_; panel * lanes_ < end; ++panel) panels_.push_back(panel);
}

template class PackedKeys<float>;
template class PackedKeys<double>;

}  // namespace hysparse::cpu
