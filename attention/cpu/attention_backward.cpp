/// Backward. With P the probabilities, delta = rowsum(dO * O) per query row and head:
///   dV = P^T dO;  dP = dO V^T;  dS = P * (dP - delta);  dQ = dS K / sqrt(E);  dK = dS^T Q / sqrt(E);  dsink =
///   -sum P_sink delta.
/// dQ rows are written by one tile each. dK and dV of a sequence and group are summed by one thread, tile after
/// tile; where there are too few of those to fill the threads, the tiles are dealt to several partial sums that
/// are added in order.
#include <cmath>

#include "attention/cpu/backward.h"
#include "attention/cpu/token_rows.h"
#include "core/cpu/math.h"

namespace hysparse::cpu {
namespace {

template <class T>
class TileBackward {
 public:
  TileBackward(const AttentionSizes& sizes, const KeyPattern& pattern, const TileGrid& grid)
      : sizes_(sizes),
        grid_(grid),
        row_width_(round_up_to_lanes<T>(sizes.head_dim)),
        segmenter_(sizes, pattern),
        lanes_(sizes, pattern, grid),
        query_(sizes.head_dim * grid.lanes),
        dout_(sizes.head_dim * grid.lanes),
        dquery_(sizes.head_dim * grid.lanes),
        query_rows_(grid.lanes * row_width_),
        dout_rows_(grid.lanes * row_width_),
        p_(max_segment * grid.lanes),
        dp_(max_segment * grid.lanes),
        lse_(grid.lanes),
        delta_(grid.lanes),
        scale_(grid.lanes) {
    std::fill_n(static_cast<T*>(scale_), grid.lanes, T(1) / std::sqrt(static_cast<T>(sizes.head_dim)));
  }

  void run(const SlabTask<T>& task, const BackwardData<T>& data) {
    if (!task.add_dk) zero_slab(task, task.dk);
    if (!task.add_dv) zero_slab(task, task.dv);
    for (std::int64_t index = task.part; index < grid_.per_sequence; index += task.parts) {
      const std::int64_t first = index * grid_.tokens;
      run_tile({task.sequence, task.group, first, std::min(grid_.tokens, sizes_.query_len - first)}, data,
               task);
    }
  }

 private:
  void run_tile(const QueryTile& tile, const BackwardData<T>& data, const SlabTask<T>& task) {
    const std::int64_t lanes = grid_.lanes, head_dim = sizes_.head_dim, stride = sizes_.num_kv_heads * head_dim;
    const std::int64_t base = tile.sequence * sizes_.key_rows * stride + tile.group * head_dim;
    lanes_.set(tile);
    gather(data);
    if (task.dsinks != nullptr) add_sinks(tile, data, task.dsinks);
    std::fill_n(static_cast<T*>(dquery_), head_dim * lanes, T(0));
    for (const Segment& segment : segmenter_.segments(tile)) {
      const std::int64_t at = base + segment.row * stride, count = segment.count;
      tile_product<T>(count, lanes, head_dim, data.k + at, stride, 1, query_, lanes, false, p_, lanes);
      if (segment.masked) lanes_.mask(tile, segment, p_);
      tile_product<T>(count, lanes, head_dim, data.v + at, stride, 1, dout_, lanes, false, dp_, lanes);
      differentiate_softmax(count);
      tile_product<T>(count, head_dim, lanes, p_, lanes, 1, dout_rows_, row_width_, true, task.dv + at, stride);
      tile_product<T>(count, head_dim, lanes, dp_, lanes, 1, query_rows_, row_width_, true, task.dk + at,
                      stride);
      tile_product<T>(head_dim, lanes, count, data.k + at, 1, stride, dp_, lanes, true, dquery_, lanes);
    }
    scatter_transposed<T>(dquery_, lanes, head_dim, scale_, data.add_dq, data.dq, lanes_.offsets);
  }

  void zero_slab(const SlabTask<T>& task, T* buffer) const {
    const std::int64_t stride = sizes_.num_kv_heads * sizes_.head_dim;
    T* slab = buffer + task.sequence * sizes_.key_rows * stride + task.group * sizes_.head_dim;
    for (std::int64_t row = 0; row < sizes_.key_rows; ++row) {
      std::fill_n(slab + row * stride, sizes_.head_dim, T(0));
    }
  }

  /// Queries (scaled) and dout as rows and as columns, lse and delta per lane.
  void gather(const BackwardData<T>& data) {
    const std::int64_t head_dim = sizes_.head_dim;
    const T scale = scale_[0];
    gather_transposed<T>(data.q, lanes_.offsets, grid_.lanes, head_dim, scale, query_);
    gather_transposed<T>(data.dout, lanes_.offsets, grid_.lanes, head_dim, T(1), dout_);
    for (std::int64_t m = 0; m < grid_.lanes; ++m) {
      T *query = query_rows_ + m * row_width_, *dout = dout_rows_ + m * row_width_;
      const std::int64_t offset = lanes_.offsets[m];
      const std::int64_t used = offset < 0 ? 0 : head_dim;
      const T *q = data.q + offset, *g = data.dout + offset, *o = data.out + offset;
      for (std::int64_t e = 0; e < used; ++e) query[e] = scale * q[e];
      for (std::int64_t e = 0; e < used; ++e) dout[e] = g[e];
      std::fill(query + used, query + row_width_, T(0));
      std::fill(dout + used, dout + row_width_, T(0));
      delta_[m] = dot(g, o, used);
      const T lse = used == 0 ? T(0) : data.lse[lanes_.rows[m]];
      lse_[m] = lse == -std::numeric_limits<T>::infinity() ? T(0) : lse;  // saw nothing: every p is 0
    }
  }

  void add_sinks(const QueryTile& tile, const BackwardData<T>& data, T* dsinks) {
    for (std::int64_t r = 0; r < sizes_.group_size(); ++r) {
      const T sink = data.sinks[tile.group * sizes_.group_size() + r];
      for (std::int64_t m = r * grid_.tokens; m < r * grid_.tokens + tile.tokens; ++m) {
        dsinks[r] -= exp(sink - lse_[m]) * delta_[m];
      }
    }
  }

  /// p: logits -> P; dp: dP -> dS.
  void differentiate_softmax(std::int64_t count) {
    const std::int64_t lanes = grid_.lanes;
    const T *lse = lse_, *delta = delta_;
    for (std::int64_t s = 0; s < count; ++s) {
      T *p = p_ + s * lanes, *dp = dp_ + s * lanes;
      for (std::int64_t m = 0; m < lanes; ++m) {
        p[m] = exp(p[m] - lse[m]);
        dp[m] = p[m] * (dp[m] - delta[m]);
      }
    }
  }

  const AttentionSizes& sizes_;
  const TileGrid grid_;
  const std::int64_t row_width_;
  Segmenter segmenter_;
  TileLanes<T> lanes_;
  Scratch<T> query_, dout_, dquery_;   // [E, lanes]
  Scratch<T> query_rows_, dout_rows_;  // [lanes, row_width]
  Scratch<T> p_, dp_;                  // [max_segment, lanes]
  Scratch<T> lse_, delta_, scale_;     // [lanes]
};

}  // namespace

void attention_backward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                        const Tensor& out, const Tensor& lse, const Tensor& dout,
                        const AttentionGradients& gradients) {
  dispatch_float(q.dtype(), [&]<class T>() {
    const BackwardData<T> data{.q = q.data<T>(),
                               .k = k.data<T>(),
                               .v = v.data<T>(),
                               .sinks = gradients.sinks.defined() ? sinks.data<T>() : nullptr,
                               .out = out.data<T>(),
                               .lse = lse.data<T>(),
                               .dout = dout.data<T>(),
                               .dq = gradients.q.buffer.data<T>(),
                               .add_dq = gradients.q.add};
    if (fits_token_rows<T>(sizes, pattern))
      return token_rows_backward<T>(stream, sizes, pattern, data, gradients);
    const TileGrid grid = TileGrid::make<T>(sizes, pattern.kind);
    run_backward<T>(stream, sizes, grid.per_sequence, data, gradients,
                    [&] { return TileBackward<T>(sizes, pattern, grid); });
  });
}

}  // namespace hysparse::cpu
