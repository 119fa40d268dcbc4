/// Backward. With P the probabilities, delta = rowsum(dO * O) per query row and head:
///   dV = P^T dO;  dP = dO V^T;  dS = P * (dP - delta);  dQ = dS K / sqrt(E);  dK = dS^T Q / sqrt(E);  dsink =
///   -sum P_sink delta.
/// dQ rows are written by one tile each. dK and dV of a sequence and group are summed by one thread, tile after
/// tile; where there are too few of those to fill the threads, the tiles are dealt to several partial sums that
/// are added in order.
#include <cmath>

#include "attention/cpu/tiles.h"
#include "core/cpu/math.h"

namespace hysparse::cpu {
namespace {

template <class T>
struct BackwardData {
  const T *q, *k, *v, *sinks, *out, *lse, *dout;
  T* dq;
  bool add_dq;
};

template <class T>
class BackwardWorker {
 public:
  BackwardWorker(const AttentionSizes& sizes, const KeyPattern& pattern, const TileGrid& grid)
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

  /// dk, dv: the buffers of the tile's part, laid out like k and v. dsinks [R] of the tile's group, or null.
  void run(const QueryTile& tile, const BackwardData<T>& data, T* dk, T* dv, T* dsinks) {
    const std::int64_t lanes = grid_.lanes, head_dim = sizes_.head_dim, stride = sizes_.num_kv_heads * head_dim;
    const std::int64_t base = tile.sequence * sizes_.key_rows * stride + tile.group * head_dim;
    lanes_.set(tile);
    gather(data);
    if (dsinks != nullptr) add_sinks(tile, data, dsinks);
    std::fill_n(static_cast<T*>(dquery_), head_dim * lanes, T(0));
    for (const Segment& segment : segmenter_.segments(tile)) {
      const std::int64_t at = base + segment.row * stride, count = segment.count;
      tile_product<T>(count, lanes, head_dim, data.k + at, stride, 1, query_, lanes, false, p_, lanes);
      if (segment.masked) lanes_.mask(tile, segment, p_);
      tile_product<T>(count, lanes, head_dim, data.v + at, stride, 1, dout_, lanes, false, dp_, lanes);
      differentiate_softmax(count);
      tile_product<T>(count, head_dim, lanes, p_, lanes, 1, dout_rows_, row_width_, true, dv + at, stride);
      tile_product<T>(count, head_dim, lanes, dp_, lanes, 1, query_rows_, row_width_, true, dk + at, stride);
      tile_product<T>(head_dim, lanes, count, data.k + at, 1, stride, dp_, lanes, true, dquery_, lanes);
    }
    scatter_transposed<T>(dquery_, lanes, head_dim, scale_, data.add_dq, data.dq, lanes_.offsets);
  }

 private:
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

/// Partial sums per sequence and group, so that tasks fill the threads.
std::int64_t count_parts(std::int64_t slabs, std::int64_t tiles, std::int64_t threads) {
  std::int64_t parts = 1;
  while (parts < tiles && slabs * parts % threads != 0 && slabs * parts < 4 * threads) ++parts;
  return parts;
}

/// The part of dk or dv that one task sums into: rows of one sequence, features of one group.
template <class T>
void zero_slab(const AttentionSizes& sizes, const QueryTile& tile, T* buffer) {
  const std::int64_t stride = sizes.num_kv_heads * sizes.head_dim;
  T* slab = buffer + tile.sequence * sizes.key_rows * stride + tile.group * sizes.head_dim;
  for (std::int64_t row = 0; row < sizes.key_rows; ++row)
    std::fill_n(slab + row * stride, sizes.head_dim, T(0));
}

/// target (+)= sum of `parts` arrays of its size, in order.
template <class T>
void add_parts(const Stream& stream, const T* partial, std::int64_t parts, const GradientBuffer& target) {
  T* out = target.buffer.data<T>();
  const std::int64_t count = target.buffer.numel();
  stream.pool->parallel_for(count, 1 << 14, [=, add = target.add](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = 0; p < parts; ++p) {
      const T* in = partial + p * count;
      if (p == 0 && !add) {
        std::copy(in + begin, in + end, out + begin);
      } else {
        for (std::int64_t i = begin; i < end; ++i) out[i] += in[i];
      }
    }
  });
}

}  // namespace

void attention_backward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                        const Tensor& out, const Tensor& lse, const Tensor& dout,
                        const AttentionGradients& gradients) {
  dispatch_float(q.dtype(), [&]<class T>() {
    const TileGrid grid = TileGrid::make<T>(sizes, pattern.kind);
    const std::int64_t group = sizes.group_size(), slabs = sizes.sequences * sizes.num_kv_heads;
    const std::int64_t parts = count_parts(slabs, grid.per_sequence, stream.pool->threads());
    const bool with_sinks = gradients.sinks.defined();
    const BackwardData<T> data{
        q.data<T>(),    k.data<T>(),   v.data<T>(),    with_sinks ? sinks.data<T>() : nullptr,
        out.data<T>(),  lse.data<T>(), dout.data<T>(), gradients.q.buffer.data<T>(),
        gradients.q.add};
    const Scratch<T> dk_parts(parts > 1 ? parts * k.numel() : 0), dv_parts(parts > 1 ? parts * v.numel() : 0);
    const Scratch<T> dsinks(with_sinks ? slabs * parts * group : 0);
    if (with_sinks) std::fill_n(static_cast<T*>(dsinks), slabs * parts * group, T(0));
    parallel_workers(
        stream, slabs * parts, [&] { return BackwardWorker<T>(sizes, pattern, grid); },
        [&](BackwardWorker<T>& worker, std::int64_t task) {
          const std::int64_t slab = task / parts, part = task % parts;
          QueryTile tile{slab / sizes.num_kv_heads, slab % sizes.num_kv_heads, 0, 0};
          T* dk = parts > 1 ? dk_parts + part * k.numel() : gradients.k.buffer.data<T>();
          T* dv = parts > 1 ? dv_parts + part * v.numel() : gradients.v.buffer.data<T>();
          if (parts > 1 || !gradients.k.add) zero_slab(sizes, tile, dk);
          if (parts > 1 || !gradients.v.add) zero_slab(sizes, tile, dv);
          for (std::int64_t index = part; index < grid.per_sequence; index += parts) {
            tile.first = index * grid.tokens;
            tile.tokens = std::min(grid.tokens, sizes.query_len - tile.first);
            worker.run(tile, data, dk, dv, with_sinks ? dsinks + task * group : nullptr);
          }
        });
    if (parts > 1) {
      add_parts<T>(stream, dk_parts, parts, gradients.k);
      add_parts<T>(stream, dv_parts, parts, gradients.v);
    }
    if (with_sinks) {
      T* total = gradients.sinks.data<T>();
      for (std::int64_t task = 0; task < slabs * parts; ++task) {
        T* head = total + task / parts % sizes.num_kv_heads * group;
        for (std::int64_t r = 0; r < group; ++r) head[r] += dsinks[task * group + r];
      }
    }
  });
}

}  // namespace hysparse::cpu
