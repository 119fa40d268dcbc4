/// The products of experts on the tensor cores, as tiles of 128 x 128 that one persistent kernel works through.
/// Accumulate in f32; outputs in bf16 but for the gradients of weights, which are added to f32. D and F are
/// multiples of 8, matrices are aligned to 16 bytes. E experts, of which e has the sorted rows of
/// RowsOfExperts.
#pragma once

#include "moe/cuda/operands.cuh"
#include "moe/cuda/schedule.cuh"

namespace hysparse::cuda {

__host__ __device__ inline int tiles_of(int n, int tile) {
  return (n + tile - 1) / tile;
}

/// Shared memory for the sources of a product, beside the stages.
inline constexpr int source_bytes = 4 * mma_step * 4;

/// This lane's places in a tile: rows row + 16 i (+ 8), columns from `column` on.
struct LanePlace {
  int row, column, quad;

  __device__ explicit LanePlace(const ExpertTile& tile) {
    const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
    quad = lane % 4;
    row = tile.m_tile * mma_tile_rows + warp / 2 * 64 + lane / 4;
    column = tile.n_tile * mma_tile_columns + warp % 2 * 64;
  }
};

/// Sorted rows of an expert along k; gathered: from the rows that they come from.
template <bool gathered>
__device__ void take_rows(RowsAlongK<gathered>& a, const RowsOfExperts& rows, const ExpertTile& tile,
                          const bf16* matrix, int k, int row_stride) {
  const int first = tile.m_tile * mma_tile_rows + RowsAlongK<gathered>::row();
  a.valid = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) a.valid |= static_cast<unsigned>(first + 16 * i < tile.rows) << i;
  if constexpr (gathered) {
    a.stride = row_stride * 2;
#pragma unroll
    for (int i = 0; i < 8; ++i) a.index[i] = a.valid >> i & 1 ? rows.sources[tile.begin + first + 16 * i] : 0;
    a.begin(matrix, k);
  } else {
    a.stride = 16 * row_stride * 2;
    a.begin(matrix + static_cast<std::int64_t>(tile.begin + first) * row_stride, k);
  }
}

/// gate, up [M, F] = x gate^T, x up^T, and hidden = weight * silu(gate) * up. A tile has 64 columns of gate and
/// of up: of 16 columns of the product the first 8 are of gate, the others of up.
struct GateUpProduct {
  RowsOfExperts rows;
  const bf16 *x, *w_gate, *w_up;
  const float* slot_weights;
  bf16 *gate, *up, *hidden;
  int hidden_size, width, x_stride;

  static constexpr Fastest a_fastest = Fastest::k, b_fastest = Fastest::k;
  using Source = OperandPair<RowsAlongK<true>, RowsAlongK<false>>;

  __device__ TileGrid grid(int n) const {
    return {tiles_of(n, mma_tile_rows), tiles_of(width, mma_tile_columns / 2)};
  }
  __device__ int steps(const ExpertTile&) const { return tiles_of(hidden_size, mma_step); }
  __device__ Source source(const ExpertTile& tile, unsigned) const {
    Source s;
    take_rows(s.a, rows, tile, x, hidden_size, x_stride);
    const int r = RowsAlongK<false>::row(), column = tile.n_tile * 64 + r % 8;
    s.b.valid = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) s.b.valid |= static_cast<unsigned>(column + 8 * i < width) << i;
    s.b.stride = 8 * hidden_size * 2;
    s.b.begin((r < 8 ? w_gate : w_up) + (static_cast<std::int64_t>(tile.expert) * width + column) * hidden_size,
              hidden_size);
    return s;
  }
  __device__ void finish(const ExpertTile& tile, const WarpSums& sums) const {
    const LanePlace place(tile);
    const int column = place.column / 2 + place.quad * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = place.row + 8 * i, c = i % 2 * 2;
      const bool there = row < tile.rows, valid = there && column < width;
      const float weight = there ? slot_weights[rows.assignments[tile.begin + row]] : 0.0f;
      unsigned gates[4], ups[4], hiddens[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float *g = sums.at[i / 2][2 * j] + c, *u = sums.at[i / 2][2 * j + 1] + c;
        gates[j] = pack(g[0], g[1]);
        ups[j] = pack(u[0], u[1]);
        hiddens[j] =
            pack(weight * g[0] / (1.0f + __expf(-g[0])) * u[0], weight * g[1] / (1.0f + __expf(-g[1])) * u[1]);
      }
      const std::int64_t at = static_cast<std::int64_t>(tile.begin + row) * width + column;
      store_quad(gates, gate + at, valid);
      store_quad(ups, up + at, valid);
      store_quad(hiddens, hidden + at, valid);
    }
  }
};

/// 64 columns of a row of bf16 [M, columns].
__device__ __forceinline__ void store_sums(const ExpertTile& tile, const WarpSums& sums, bf16* out,
                                           int columns) {
  const LanePlace place(tile);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int row = place.row + 8 * i, c = i % 2 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = place.column + half * 32 + place.quad * 8;
      unsigned v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* s = sums.at[i / 2][4 * half + j] + c;
        v[j] = pack(s[0], s[1]);
      }
      store_quad(v, out + static_cast<std::int64_t>(tile.begin + row) * columns + column,
                 row < tile.rows && column < columns);
    }
  }
}

/// out [M, D] = hidden down^T.
struct DownProduct {
  RowsOfExperts rows;
  const bf16 *hidden, *w_down;
  bf16* out;
  int hidden_size, width;

  static constexpr Fastest a_fastest = Fastest::k, b_fastest = Fastest::k;
  using Source = OperandPair<RowsAlongK<false>, RowsAlongK<false>>;

  __device__ TileGrid grid(int n) const {
    return {tiles_of(n, mma_tile_rows), tiles_of(hidden_size, mma_tile_columns)};
  }
  __device__ int steps(const ExpertTile&) const { return tiles_of(width, mma_step); }
  __device__ Source source(const ExpertTile& tile, unsigned) const {
    Source s;
    take_rows(s.a, rows, tile, hidden, width, width);
    const int column = tile.n_tile * mma_tile_columns + RowsAlongK<false>::row();
    s.b.valid = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) s.b.valid |= static_cast<unsigned>(column + 16 * i < hidden_size) << i;
    s.b.stride = 16 * width * 2;
    s.b.begin(w_down + (static_cast<std::int64_t>(tile.expert) * hidden_size + column) * width, width);
    return s;
  }
  __device__ void finish(const ExpertTile& tile, const WarpSums& sums) const {
    store_sums(tile, sums, out, hidden_size);
  }
};

}  // namespace hysparse::cuda
