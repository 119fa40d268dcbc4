/// Forward: one pass over the segments of a tile with the running maximum and sum of the softmax. Writes out
/// and lse of its own rows only, so any order of tiles gives the same bits.
#include <cmath>
#include <optional>

#include "attention/cpu/select.h"
#include "attention/cpu/tiles.h"
#include "attention/cpu/token_rows.h"
#include "core/cpu/math.h"

namespace hysparse::cpu {
namespace {

template <class T>
class TileForward {
 public:
  TileForward(const AttentionSizes& sizes, const KeyPattern& pattern, const TileGrid& grid,
              const BlockLists* chosen, const Tensor& scores)
      : sizes_(sizes),
        grid_(grid),
        segmenter_(sizes, pattern),
        lanes_(sizes, pattern, grid),
        query_(sizes.head_dim * grid.lanes),
        logits_(max_segment * grid.lanes),
        sum_pv_(sizes.head_dim * grid.lanes),
        maximum_(grid.lanes),
        sum_(grid.lanes),
        factor_(grid.lanes) {
    if (chosen != nullptr) selector_.emplace(sizes, pattern, grid, *chosen, scores);
  }

  void run(const QueryTile& tile, const T* q, const T* k, const T* v, const T* sinks, T* out, T* lse) {
    const std::int64_t lanes = grid_.lanes, head_dim = sizes_.head_dim, stride = sizes_.num_kv_heads * head_dim;
    const std::int64_t base = tile.sequence * sizes_.key_rows * stride + tile.group * head_dim;
    lanes_.set(tile);
    gather_transposed<T>(q, lanes_.offsets, lanes, head_dim, T(1) / std::sqrt(static_cast<T>(head_dim)),
                         query_);
    start(tile, sinks);
    for (const Segment& segment : segmenter_.segments(tile)) {
      const std::int64_t at = base + segment.row * stride;
      tile_product<T>(segment.count, lanes, head_dim, k + at, stride, 1, query_, lanes, false, logits_, lanes);
      if (segment.masked) lanes_.mask(tile, segment, logits_);
      if (selector_) selector_->add(segment, logits_);
      exponentiate(segment.count);
      tile_product<T>(head_dim, lanes, segment.count, v + at, 1, stride, logits_, lanes, true, sum_pv_, lanes);
    }
    finish(tile, out, lse);
  }

 private:
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  /// The sink is a logit with no value.
  void start(const QueryTile& tile, const T* sinks) {
    std::fill_n(static_cast<T*>(maximum_), grid_.lanes, lowest);
    std::fill_n(static_cast<T*>(sum_), grid_.lanes, T(0));
    std::fill_n(static_cast<T*>(sum_pv_), sizes_.head_dim * grid_.lanes, T(0));
    if (sinks != nullptr) {
      for (std::int64_t r = 0; r < sizes_.group_size(); ++r) {
        const T sink = sinks[tile.group * sizes_.group_size() + r];
        std::fill_n(maximum_ + r * grid_.tokens, grid_.tokens, sink);
        std::fill_n(sum_ + r * grid_.tokens, grid_.tokens, sink == lowest ? T(0) : T(1));
      }
    }
    if (selector_) selector_->start(tile);
  }

  /// Logits become exp(logit - running maximum); what was summed under an older maximum is scaled down to the
  /// new one.
  void exponentiate(std::int64_t count) {
    constexpr std::int64_t width = vector_lanes<T>;
    const std::int64_t lanes = grid_.lanes;
    T* logits = logits_;
    alignas(64) T shift[width];
    bool rescale = false;
    for (std::int64_t m = 0; m < lanes; m += width) {
      detail::Vector<T> top, row;
      std::memcpy(&top, maximum_ + m, sizeof(top));
      for (std::int64_t s = 0; s < count; ++s) {
        std::memcpy(&row, logits + s * lanes + m, sizeof(row));
        top = row > top ? row : top;
      }
      std::memcpy(shift, &top, sizeof(top));
      for (std::int64_t j = 0; j < width; ++j) {
        const T old = maximum_[m + j];
        rescale = rescale || old != shift[j];
        maximum_[m + j] = shift[j];
        shift[j] = shift[j] == lowest ? T(0) : shift[j];  // nothing seen yet: avoids inf - inf
        factor_[m + j] = exp(old - shift[j]);
        sum_[m + j] *= factor_[m + j];
      }
      T* sum = sum_ + m;
      for (std::int64_t s = 0; s < count; ++s) {
        T* p = logits + s * lanes + m;
        for (std::int64_t j = 0; j < width; ++j) {
          p[j] = exp(p[j] - shift[j]);
          sum[j] += p[j];
        }
      }
    }
    if (!rescale) return;
    const T* factor = factor_;
    for (std::int64_t e = 0; e < sizes_.head_dim; ++e) {
      T* row = sum_pv_ + e * lanes;
      for (std::int64_t m = 0; m < lanes; ++m) row[m] *= factor[m];
    }
  }

  void finish(const QueryTile& tile, T* out, T* lse) {
    for (std::int64_t m = 0; m < grid_.lanes; ++m) {
      const T sum = sum_[m];
      factor_[m] = sum == T(0) ? T(0) : T(1) / sum;
      sum_[m] = sum == T(0) ? lowest : maximum_[m] + std::log(sum);
      if (lanes_.rows[m] >= 0) lse[lanes_.rows[m]] = sum_[m];
    }
    scatter_transposed<T>(sum_pv_, grid_.lanes, sizes_.head_dim, factor_, false, out, lanes_.offsets);
    if (selector_) selector_->finish(tile, sum_);
  }

  const AttentionSizes& sizes_;
  const TileGrid grid_;
  Segmenter segmenter_;
  TileLanes<T> lanes_;
  Scratch<T> query_;   // [E, lanes], scaled
  Scratch<T> logits_;  // [max_segment, lanes], then exp(logits - maximum)
  Scratch<T> sum_pv_;  // [E, lanes]
  Scratch<T> maximum_, sum_, factor_;
  std::optional<BlockSelector<T>> selector_;
};

}  // namespace

void attention_forward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                       const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                       const Tensor& out, const Tensor& lse, const BlockLists* chosen, const Tensor& scores) {
  HYSPARSE_CHECK(chosen == nullptr ? !scores.defined() : pattern.kind == KeyPattern::Kind::causal);
  dispatch_float(q.dtype(), [&]<class T>() {
    const T *q_data = q.data<T>(), *k_data = k.data<T>(), *v_data = v.data<T>();
    const T* sink_data = sinks.defined() ? sinks.data<T>() : nullptr;
    T *out_data = out.data<T>(), *lse_data = lse.data<T>();
    if (fits_token_rows<T>(sizes, pattern)) {
      return token_rows_forward<T>(stream, sizes, pattern,
                                   {q_data, k_data, v_data, sink_data, out_data, lse_data});
    }
    const TileGrid grid = TileGrid::make<T>(sizes, pattern.kind);
    const std::int64_t slabs = sizes.sequences * sizes.num_kv_heads;
    parallel_workers(
        stream, slabs * grid.per_sequence, [&] { return TileForward<T>(sizes, pattern, grid, chosen, scores); },
        [&](TileForward<T>& worker, std::int64_t task) {
          // The last tiles of the sequences see the most keys: they come first.
          const std::int64_t index = grid.per_sequence - 1 - task / slabs, slab = task % slabs;
          const std::int64_t first = index * grid.tokens;
          worker.run({slab / sizes.num_kv_heads, slab % sizes.num_kv_heads, first,
                      std::min(grid.tokens, sizes.query_len - first)},
                     q_data, k_data, v_data, sink_data, out_data, lse_data);
        });
  });
}

}  // namespace hysparse::cpu
