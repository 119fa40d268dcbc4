/// dQ by tiles of query rows (backward.cuh).
#pragma once

#include "attention/cuda/backward.cuh"
#include "attention/cuda/key_tiles.cuh"
#include "attention/cuda/mma.cuh"

namespace hysparse::cuda {

template <int Columns, bool Blocks>
struct QueryGradientTiling {
  static constexpr int warps = Columns > 128 || !Blocks ? 4 : 2;
  static constexpr int row_tiles = Columns > 128 ? 1 : 2;
  static constexpr int rows = warps * row_tiles * 16, threads = warps * warp_size, keys = 32;
  static constexpr int blocks_per_multiprocessor = Columns > 128 ? 1 : Blocks ? 3 : 2;
  static constexpr int shared_bytes = (2 * rows + 4 * keys) * Columns * 2;
};

template <int Columns, bool Blocks, bool Documents>
__global__ void __launch_bounds__((QueryGradientTiling<Columns, Blocks>::threads),
                                  (QueryGradientTiling<Columns, Blocks>::blocks_per_multiprocessor))
    query_gradient_kernel(const __grid_constant__ BackwardArguments a,
                          const __grid_constant__ QueryTiles query_tiles) {
  using Tiling = QueryGradientTiling<Columns, Blocks>;
  constexpr int row_tiles = Tiling::row_tiles, keys = Tiling::keys, rows = Tiling::rows;
  using Tiles =
      std::conditional_t<Blocks, BlockTiles<row_tiles, keys, Documents>, SpanTiles<row_tiles, keys, Documents>>;
  extern __shared__ __align__(128) char shared[];
  const Problem& p = a.problem;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int first_row = static_cast<int>(threadIdx.x) / warp_size * row_tiles * 16;
  constexpr std::uint32_t row_bytes = rows * Columns * 2, tile_bytes = keys * Columns * 2;
  const std::uint32_t q_tile = shared_address(shared), kv_tiles = q_tile + 2 * row_bytes;

  const QueryTile tile(p, query_tiles, static_cast<int>(blockIdx.x));
  const std::int64_t key_stride = static_cast<std::int64_t>(p.num_kv_heads) * p.head_dim;
  const std::int64_t key_base = tile.keys(p);
  const LaneRows<row_tiles> lane_rows(p, query_tiles, tile, first_row);
  Tiles tiles(p, tile, lane_rows);
  const auto load_keys = [&](std::uint32_t stage) {
    const bf16* const from[] = {a.k, a.v};
    if (tiles.prepared_whole()) {
      load_whole_tiles<Columns, keys, Tiling::threads>(
          stage, tile_bytes, from, p.head_dim, key_base + tiles.prepared_row(0) * key_stride, key_stride);
    } else {
      load_tiles<Columns, keys, Tiling::threads>(stage, tile_bytes, from, p.head_dim,
                                                 [&](int i) -> std::int64_t {
                                                   const int row = tiles.prepared_row(i);
                                                   return row < 0 ? -1 : key_base + row * key_stride;
                                                 });
    }
  };

  bool more = tiles.prepare();
  const bf16* const from[] = {a.q, a.dout};
  load_tiles<Columns, rows, Tiling::threads>(q_tile, row_bytes, from, p.head_dim, [&](int m) -> std::int64_t {
    const std::int64_t row = tile.row(p, query_tiles, m);
    return row < 0 ? -1 : row * p.head_dim;
  });
  if (more) load_keys(kv_tiles);
  commit_copies();

  float dq[row_tiles][Columns / 8][4] = {};
  RowStats stats[row_tiles][2];
  LaneAddress q_rows[row_tiles], dout_rows[row_tiles];
#pragma unroll
  for (int i = 0; i < row_tiles; ++i) {
    q_rows[i] = deep_rows<Columns>(q_tile, first_row + 16 * i);
    dout_rows[i] = {q_rows[i].base + row_bytes, q_rows[i].chunk};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = tile.row(p, query_tiles, first_row + 16 * i + 8 * half + lane / 4);
      stats[i][half] = row < 0 ? RowStats{0.0f, 0.0f} : a.stats[row];
    }
  }
  const float to_exponent = p.scale * 1.4426950408889634f;
  std::uint32_t stage = 0;
  while (more) {
    tiles.advance();
    more = tiles.prepare();
    wait_for_copies<0>();
    __syncthreads();
    if (more) load_keys(kv_tiles + (stage ^ (2 * tile_bytes)));
    commit_copies();
    const std::uint32_t k_tile = kv_tiles + stage, v_tile = k_tile + tile_bytes;
    stage ^= 2 * tile_bytes;
    if (tiles.skip()) continue;

    float s[row_tiles][keys / 8][4], dp[row_tiles][keys / 8][4];
    rows_times_rows<Columns, row_tiles, keys / 16>(s, q_rows, wide_rows<Columns>(k_tile, 0));
    tiles.mask(s);
    rows_times_rows<Columns, row_tiles, keys / 16>(dp, dout_rows, wide_rows<Columns>(v_tile, 0));
#pragma unroll
    for (int i = 0; i < row_tiles; ++i) {
#pragma unroll
      for (int n = 0; n < keys / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float probability = exp2_fast(fmaf(s[i][n][j], to_exponent, -stats[i][j / 2].lse));
          s[i][n][j] = probability * (dp[i][n][j] - stats[i][j / 2].delta);
        }
      }
    }
    scores_times_rows<Columns, row_tiles, keys / 16, Columns / 16>(dq, s, deep_rows<Columns>(k_tile, 0));
  }
  // Where there were no keys, copies to the q tile may still be under way.
  wait_for_copies<0>();
  __syncthreads();

  float factor[row_tiles][2];
#pragma unroll
  for (int i = 0; i < row_tiles; ++i) factor[i][0] = factor[i][1] = p.scale;
  store_accumulators<Columns>(shared, first_row, dq, factor);
  write_rows<Columns, row_tiles * 16>(shared, first_row, p.head_dim, a.add_dq, [&](int m) -> bf16* {
    const std::int64_t row = tile.row(p, query_tiles, m);
    return row < 0 ? nullptr : a.dq + row * p.head_dim;
  });
}

template <int Columns, bool Blocks>
void launch_query_gradient_kernel(const Stream& stream, const BackwardArguments& a) {
  using Tiling = QueryGradientTiling<Columns, Blocks>;
  const QueryTiles tiles(a.problem, Tiling::rows);
  launch(stream,
         {dim3(static_cast<unsigned>(tiles.count(a.problem))), dim3(Tiling::threads), Tiling::shared_bytes},
         a.problem.documents != nullptr ? query_gradient_kernel<Columns, Blocks, true>
                                        : query_gradient_kernel<Columns, Blocks, false>,
         a, tiles);
}

template <int Columns>
void launch_query_gradients(const Stream& stream, const BackwardArguments& a) {
  if (a.problem.blocks != nullptr) return launch_query_gradient_kernel<Columns, true>(stream, a);
  launch_query_gradient_kernel<Columns, false>(stream, a);
}

}  // namespace hysparse::cuda
