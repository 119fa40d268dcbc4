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
  struct Source {
    RowsAlongK<true> a;
    RowsAlongK<false> b;
    __device__ __forceinline__ void copy(int quarter, unsigned shared) {
#pragma unroll
      for (int i = 2 * quarter; i < 2 * quarter + 2; ++i) {
        a.copy(i, shared);
        b.copy(i, shared + operand_bytes);
      }
    }
    __device__ __forceinline__ void next() {
      a.next();
      b.next();
    }
  };

  __device__ TileGrid grid(int n) const {
    return {tiles_of(n, mma_tile_rows), tiles_of(width, mma_tile_columns / 2)};
  }
  __device__ int steps(const ExpertTile&) const {
    return tiles_of(hidden_size, mma_step);
  }
  __device__ Source source(const ExpertTile& tile) const {
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
  struct Source {
    RowsAlongK<false> a, b;
    __device__ __forceinline__ void copy(int quarter, unsigned shared) {
#pragma unroll
      for (int i = 2 * quarter; i < 2 * quarter + 2; ++i) {
        a.copy(i, shared);
        b.copy(i, shared + operand_bytes);
      }
    }
    __device__ __forceinline__ void next() {
      a.next();
      b.next();
    }
  };

  __device__ TileGrid grid(int n) const {
    return {tiles_of(n, mma_tile_rows), tiles_of(hidden_size, mma_tile_columns)};
  }
  __device__ int steps(const ExpertTile&) const {
    return tiles_of(width, mma_step);
  }
  __device__ Source source(const ExpertTile& tile) const {
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

/// dh [M, F] = dout down, and what follows from it, without dh itself: dgate, dup, hidden, and of the gradients
/// of the slot weights, <dh, silu(gate) * up>, the sums over 64 columns each: dslot_parts f32 [M, parts].
struct HiddenGradientProduct {
  RowsOfExperts rows;
  const bf16 *dout, *w_down, *gate, *up;
  const float* slot_weights;
  bf16 *dgate, *dup, *hidden;
  float* dslot_parts;
  int hidden_size, width, dout_stride;

  static constexpr Fastest a_fastest = Fastest::k, b_fastest = Fastest::other;
  struct Source {
    RowsAlongK<true> a;
    RowsOfK b;
    __device__ __forceinline__ void copy(int quarter, unsigned shared) {
#pragma unroll
      for (int i = 2 * quarter; i < 2 * quarter + 2; ++i) {
        a.copy(i, shared);
        b.copy(i, shared + operand_bytes);
      }
    }
    __device__ __forceinline__ void next() {
      a.next();
      b.next();
    }
  };

  static int parts(std::int64_t width) {
    return 2 * tiles_of(static_cast<int>(width), mma_tile_columns);
  }
  __device__ TileGrid grid(int n) const {
    return {tiles_of(n, mma_tile_rows), tiles_of(width, mma_tile_columns)};
  }
  __device__ int steps(const ExpertTile&) const {
    return tiles_of(hidden_size, mma_step);
  }
  __device__ Source source(const ExpertTile& tile) const {
    Source s;
    take_rows(s.a, rows, tile, dout, hidden_size, dout_stride);
    const int column = tile.n_tile * mma_tile_columns;
    s.b.begin(w_down + static_cast<std::int64_t>(tile.expert) * hidden_size * width + column, hidden_size,
              width - column, width);
    return s;
  }
  __device__ void finish(const ExpertTile& tile, const WarpSums& sums) const {
    const LanePlace place(tile);
    const int part = place.column / 64, part_count = 2 * tiles_of(width, mma_tile_columns);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = place.row + 8 * i, c = i % 2 * 2;
      const bool there = row < tile.rows;
      const float weight = there ? slot_weights[rows.assignments[tile.begin + row]] : 0.0f;
      float inner = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = place.column + half * 32 + place.quad * 8;
        const bool valid = there && column < width;
        const std::int64_t at = static_cast<std::int64_t>(tile.begin + row) * width + column;
        unsigned gates[4], ups[4], hiddens[4];
        load_quad(gate + at, valid, gates);
        load_quad(up + at, valid, ups);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float* dh = sums.at[i / 2][4 * half + j] + c;
          const float2 g = unpack(gates[j]), u = unpack(ups[j]);
          const float sigmoid_x = 1.0f / (1.0f + __expf(-g.x)), sigmoid_y = 1.0f / (1.0f + __expf(-g.y));
          const float silu_x = g.x * sigmoid_x, silu_y = g.y * sigmoid_y;
          inner += dh[0] * silu_x * u.x + dh[1] * silu_y * u.y;
          const float d_x = weight * dh[0], d_y = weight * dh[1];
          hiddens[j] = pack(weight * silu_x * u.x, weight * silu_y * u.y);
          gates[j] = pack(d_x * u.x * sigmoid_x * (1.0f + g.x - silu_x),
                          d_y * u.y * sigmoid_y * (1.0f + g.y - silu_y));
          ups[j] = pack(d_x * silu_x, d_y * silu_y);
        }
        store_quad(gates, dgate + at, valid);
        store_quad(ups, dup + at, valid);
        store_quad(hiddens, hidden + at, valid);
      }
      inner += __shfl_xor_sync(all_lanes, inner, 1);
      inner += __shfl_xor_sync(all_lanes, inner, 2);
      if (there && place.quad == 0)
        dslot_parts[static_cast<std::int64_t>(tile.begin + row) * part_count + part] = inner;
    }
  }
};

/// drows [M, D] = dgate gate + dup up, as one sum over 2 F.
struct RowGradientProduct {
  RowsOfExperts rows;
  const bf16 *dgate, *dup, *w_gate, *w_up;
  bf16* drows;
  int hidden_size, width;

  static constexpr Fastest a_fastest = Fastest::k, b_fastest = Fastest::other;
  struct Source {
    RowsAlongK<false> a;
    RowsOfK b;
    const bf16 *second_a, *second_b;
    int width, columns, hidden_size;

    __device__ __forceinline__ void copy(int quarter, unsigned shared) {
#pragma unroll
      for (int i = 2 * quarter; i < 2 * quarter + 2; ++i) {
        a.copy(i, shared);
        b.copy(i, shared + operand_bytes);
      }
    }
    __device__ __forceinline__ void next() {
      a.next();
      b.next();
      // All threads have passed the last k of the first product at once: those of chunk 0 and row 0 are last.
      if (second_a != nullptr && a.left + static_cast<int>(threadIdx.x % 8) * 8 <= 0) {
        a.begin(second_a, width);
        b.begin(second_b, width, columns, hidden_size);
        second_a = nullptr;
      }
    }
  };

  __device__ TileGrid grid(int n) const {
    return {tiles_of(n, mma_tile_rows), tiles_of(hidden_size, mma_tile_columns)};
  }
  __device__ int steps(const ExpertTile&) const {
    return 2 * tiles_of(width, mma_step);
  }
  __device__ Source source(const ExpertTile& tile) const {
    Source s;
    const int column = tile.n_tile * mma_tile_columns;
    const std::int64_t matrix = static_cast<std::int64_t>(tile.expert) * width * hidden_size + column;
    const std::int64_t first =
        static_cast<std::int64_t>(tile.begin + tile.m_tile * mma_tile_rows + RowsAlongK<false>::row()) * width;
    take_rows(s.a, rows, tile, dgate, width, width);
    s.b.begin(w_gate + matrix, width, hidden_size - column, hidden_size);
    s.second_a = dup + first;
    s.second_b = w_up + matrix;
    s.width = width;
    s.columns = hidden_size - column;
    s.hidden_size = hidden_size;
    return s;
  }
  __device__ void finish(const ExpertTile& tile, const WarpSums& sums) const {
    store_sums(tile, sums, drows, hidden_size);
  }
};

/// c (m, n) += a^T b over an expert's rows: up to three such products, of m + n = D + F, one of whose operands
/// is gathered. Every element is added to once.
struct WeightGradientProduct {
  struct Part {
    const bf16 *a, *b;
    float* c;
    int a_stride, b_stride, m, n;
    bool gathers_a;
  };
  RowsOfExperts rows;
  Part parts[3];
  int count;

  static constexpr Fastest a_fastest = Fastest::other, b_fastest = Fastest::other;
  struct Source {
    const char *a, *b;    ///< this thread's columns of the first row of the matrices
    const int* gathered;  ///< the index of this thread's first row of the next step
    int a_stride, b_stride, direct, left, index[8];
    bool gathers_a, a_valid, b_valid;

    __device__ __forceinline__ void fetch(int i) { index[i] = left > 8 * i ? gathered[8 * i] : 0; }
    __device__ __forceinline__ void copy(int quarter, unsigned shared) {
      const unsigned to = shared + RowsOfK::place();
#pragma unroll
      for (int i = 2 * quarter; i < 2 * quarter + 2; ++i) {
        const int own = direct + 8 * i, a_row = gathers_a ? index[i] : own, b_row = gathers_a ? own : index[i];
        const bool there = left > 8 * i;
        copy_chunk(to + i * 2048, a + static_cast<std::int64_t>(a_row) * a_stride, there && a_valid);
        copy_chunk(to + operand_bytes + i * 2048, b + static_cast<std::int64_t>(b_row) * b_stride,
                   there && b_valid);
      }
    }
    __device__ __forceinline__ void next() {
      direct += mma_step;
      gathered += mma_step;
      left -= mma_step;
#pragma unroll
      for (int i = 0; i < 8; ++i) fetch(i);
    }
  };

  __device__ TileGrid grid(int n) const {
    const Part& p = parts[0];
    return n == 0 ? TileGrid{0, 0}
                  : TileGrid{count * tiles_of(p.m, mma_tile_rows), tiles_of(p.n, mma_tile_columns)};
  }
  /// The part of a tile, and its place there.
  __device__ const Part& part_of(const ExpertTile& tile, int& m_tile, int& n_tile) const {
    const int m_tiles = tiles_of(parts[0].m, mma_tile_rows), which = tile.m_tile / m_tiles;
    m_tile = tile.m_tile % m_tiles;
    n_tile = tile.n_tile;
    const Part& p = which == 0 ? parts[0] : which == 1 ? parts[1] : parts[2];
    if (p.m != parts[0].m) {
      const int swap = m_tile;
      m_tile = n_tile;
      n_tile = swap;
    }
    return p;
  }
  __device__ int steps(const ExpertTile& tile) const {
    return tiles_of(tile.rows, mma_step);
  }
  __device__ Source source(const ExpertTile& tile) const {
    int m_tile, n_tile;
    const Part& p = part_of(tile, m_tile, n_tile);
    const int a_column = m_tile * mma_tile_rows + RowsOfK::column(),
              b_column = n_tile * mma_tile_columns + RowsOfK::column();
    Source s;
    s.a = reinterpret_cast<const char*>(p.a + a_column);
    s.b = reinterpret_cast<const char*>(p.b + b_column);
    s.a_stride = p.a_stride * 2;
    s.b_stride = p.b_stride * 2;
    s.gathers_a = p.gathers_a;
    s.a_valid = a_column < p.m;
    s.b_valid = b_column < p.n;
    s.direct = tile.begin + RowsOfK::row();
    s.gathered = rows.sources + s.direct;
    s.left = tile.rows - RowsOfK::row();
#pragma unroll
    for (int i = 0; i < 8; ++i) s.fetch(i);
    return s;
  }
  __device__ void finish(const ExpertTile& tile, const WarpSums& sums) const {
    ExpertTile there = tile;
    const Part& p = part_of(tile, there.m_tile, there.n_tile);
    const LanePlace place(there);
    float* c = p.c + static_cast<std::int64_t>(tile.expert) * p.m * p.n;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 old[2][8];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = place.row + 16 * i + 8 * h;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const int column = place.column + 8 * j + 2 * place.quad;
          if (row < p.m && column < p.n)
            old[h][j] = *reinterpret_cast<const float2*>(c + static_cast<std::int64_t>(row) * p.n + column);
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = place.row + 16 * i + 8 * h;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const int column = place.column + 8 * j + 2 * place.quad;
          if (row < p.m && column < p.n)
            *reinterpret_cast<float2*>(c + static_cast<std::int64_t>(row) * p.n + column) = {
                old[h][j].x + sums.at[i][j][2 * h], old[h][j].y + sums.at[i][j][2 * h + 1]};
        }
      }
    }
  }
};

}  // namespace hysparse::cuda
