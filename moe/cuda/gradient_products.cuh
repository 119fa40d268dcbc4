/// The products of the experts' backward (products.cuh).
#pragma once

#include "moe/cuda/products.cuh"

namespace hysparse::cuda {

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
  using Source = OperandPair<RowsAlongK<true>, RowsOfK>;

  static int parts(std::int64_t width) { return 2 * tiles_of(static_cast<int>(width), mma_tile_columns); }
  __device__ TileGrid grid(int n) const {
    return {tiles_of(n, mma_tile_rows), tiles_of(width, mma_tile_columns)};
  }
  __device__ int steps(const ExpertTile&) const { return tiles_of(hidden_size, mma_step); }
  __device__ Source source(const ExpertTile& tile, unsigned) const {
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
  struct Source : OperandPair<RowsAlongK<false>, RowsOfK> {
    const bf16 *second_a, *second_b;
    int width, columns, hidden_size;

    __device__ __forceinline__ void next() {
      OperandPair::next();
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
  __device__ int steps(const ExpertTile&) const { return 2 * tiles_of(width, mma_step); }
  __device__ Source source(const ExpertTile& tile, unsigned) const {
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
    const char *a, *b;   ///< this thread's columns of the first row of the matrices
    const int* sources;  ///< of the expert's rows
    unsigned indices;    ///< shared memory: those of four steps
    int a_stride, b_stride, direct, rows, step;
    bool gathers_a, a_valid, b_valid;

    __device__ __forceinline__ void copy(int quarter, unsigned shared) const {
      const unsigned to = shared + RowsOfK::place();
#pragma unroll
      for (int i = 2 * quarter; i < 2 * quarter + 2; ++i) {
        const int row = RowsOfK::row() + 8 * i, own = direct + row,
                  there = load_shared(indices + index_place(step, row));
        const bool valid = step * mma_step + row < rows;
        copy_chunk(to + i * 2048, a + static_cast<std::int64_t>(gathers_a ? there : own) * a_stride,
                   valid && a_valid);
        copy_chunk(to + operand_bytes + i * 2048,
                   b + static_cast<std::int64_t>(gathers_a ? own : there) * b_stride, valid && b_valid);
      }
    }
    /// The indices of a step come with the copies of two steps before: they are there two steps later.
    __device__ __forceinline__ void next() {
      ++step;
      direct += mma_step;
      const int row = static_cast<int>(threadIdx.x), ahead = (step + 1) * mma_step + row;
      if (row < mma_step && ahead < rows) copy_word(indices + index_place(step + 1, row), sources + ahead);
    }
    static __device__ __forceinline__ unsigned index_place(int step, int row) {
      return (step % 4 * mma_step + row) * 4;
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
  __device__ Source source(const ExpertTile& tile, unsigned scratch) const {
    int m_tile, n_tile;
    const Part& p = part_of(tile, m_tile, n_tile);
    const int a_column = m_tile * mma_tile_rows + RowsOfK::column(),
              b_column = n_tile * mma_tile_columns + RowsOfK::column();
    Source s;
    s.a = reinterpret_cast<const char*>(p.a + a_column);
    s.b = reinterpret_cast<const char*>(p.b + b_column);
    s.sources = rows.sources + tile.begin;
    s.indices = scratch;
    s.a_stride = p.a_stride * 2;
    s.b_stride = p.b_stride * 2;
    s.direct = tile.begin;
    s.rows = tile.rows;
    s.step = 0;
    s.gathers_a = p.gathers_a;
    s.a_valid = a_column < p.m;
    s.b_valid = b_column < p.n;
    static_assert(mma_threads == 2 * mma_step, "a thread has an index of the first two steps");
    const int row = static_cast<int>(threadIdx.x);
    store_shared(scratch + row * 4, row < tile.rows ? s.sources[row] : 0);
    __syncthreads();
    return s;
  }
  /// Nobody else adds to these elements, and each is added to once: the order of blocks does not show.
  /// Reductions do not wait for what is there, and the next tile begins.
  __device__ void finish(const ExpertTile& tile, const WarpSums& sums) const {
    ExpertTile there = tile;
    const Part& p = part_of(tile, there.m_tile, there.n_tile);
    const LanePlace place(there);
    float* c = p.c + static_cast<std::int64_t>(tile.expert) * p.m * p.n;
    const bool odd = place.quad & 1;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Of two neighbours the even one takes four columns of row g, the odd one those of row g + 8.
      const int row = place.row + 16 * i + (odd ? 8 : 0);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float(&s)[4] = sums.at[i][j];
        const float first = __shfl_xor_sync(all_lanes, odd ? s[0] : s[2], 1),
                    second = __shfl_xor_sync(all_lanes, odd ? s[1] : s[3], 1);
        const int column = place.column + 8 * j + place.quad / 2 * 4;
        if (row < p.m && column < p.n) {
          reduce_to(c + static_cast<std::int64_t>(row) * p.n + column,
                    odd ? make_float4(first, second, s[2], s[3]) : make_float4(s[0], s[1], first, second));
        }
      }
    }
  }
};

}  // namespace hysparse::cuda
