/// Attention forward in bf16 on tensor cores: one pass over the keys of a tile of query rows with the running
/// maximum and sum of the softmax. Writes out and lse of its own rows only; overwrites them.
/// Kind `scored` lists the blocks of every token on the way (scoring.cuh).
#pragma once

#include "attention/cuda/key_tiles.cuh"
#include "attention/cuda/mma.cuh"
#include "attention/cuda/scoring.cuh"

namespace hysparse::cuda {

enum class ForwardKind { span, scored, blocks };

struct ForwardArguments {
  Problem problem;
  QueryTiles tiles;
  int tile_count;
  const bf16 *q, *k, *v;
  ParameterView sinks;
  bf16* out;
  float* lse;
  Scoring scoring;
};

template <int Columns, ForwardKind Kind>
struct ForwardTiling {
  static constexpr int warps = Columns > 128 || Kind != ForwardKind::blocks ? 4 : 2;
  static constexpr int row_tiles = Columns > 128 ? 1 : 2;
  static constexpr int rows = warps * row_tiles * 16, threads = warps * warp_size;
  static constexpr int keys = Columns > 128 || Kind == ForwardKind::blocks ? 32 : 64;
  static constexpr int blocks_per_multiprocessor =
      (Columns > 64 ? 2 : 3) * (Kind == ForwardKind::blocks && Columns <= 128 ? 2 : 1);
  static constexpr int tile_bytes = (rows + 4 * keys) * Columns * 2;
  static constexpr int shared_bytes = tile_bytes + (Kind == ForwardKind::scored ? rows * 4 + 16 : 0);
};

/// out rows and lse of one tile; what is left in `maxima` are the rows' block maxima, in lse_rows their lse.
template <int Columns, ForwardKind Kind, bool Documents>
__device__ __forceinline__ void forward_tile(const ForwardArguments& a, const QueryTile& tile, char* shared,
                                             float* maxima, float* lse_rows) {
  using Tiling = ForwardTiling<Columns, Kind>;
  constexpr int row_tiles = Tiling::row_tiles, keys = Tiling::keys, rows = Tiling::rows;
  using Tiles = std::conditional_t<Kind == ForwardKind::blocks, BlockTiles<row_tiles, keys, Documents>,
                                   SpanTiles<row_tiles, keys, Documents>>;
  const Problem& p = a.problem;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int first_row = static_cast<int>(threadIdx.x) / warp_size * row_tiles * 16;
  const std::uint32_t q_tile = shared_address(shared), kv_tiles = q_tile + rows * Columns * 2;
  constexpr std::uint32_t tile_bytes = keys * Columns * 2, stage_bytes = 2 * tile_bytes;

  const std::int64_t key_stride = static_cast<std::int64_t>(p.num_kv_heads) * p.head_dim;
  const std::int64_t key_base = tile.keys(p);
  const LaneRows<row_tiles> lane_rows(p, a.tiles, tile, first_row);
  Tiles tiles(p, tile, lane_rows);
  if constexpr (Kind == ForwardKind::scored) tiles.start_at_block(a.scoring.by_block);
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
  const bf16* const from[] = {a.q};
  load_tiles<Columns, rows, Tiling::threads>(q_tile, 0, from, p.head_dim, [&](int m) -> std::int64_t {
    const std::int64_t row = tile.row(p, a.tiles, m);
    return row < 0 ? -1 : row * p.head_dim;
  });
  if (more) load_keys(kv_tiles);
  commit_copies();

  float sums[row_tiles][Columns / 8][4] = {};
  float maximum[row_tiles][2], sum[row_tiles][2];
  LaneAddress q_rows[row_tiles];
#pragma unroll
  for (int i = 0; i < row_tiles; ++i) {
    maximum[i][0] = maximum[i][1] = -INFINITY;
    sum[i][0] = sum[i][1] = 0.0f;
    q_rows[i] = deep_rows<Columns>(q_tile, first_row + 16 * i);
  }
  const float to_exponent = p.scale * 1.4426950408889634f;
  std::uint32_t stage = 0;
  while (more) {
    tiles.advance();
    more = tiles.prepare();
    wait_for_copies<0>();
    __syncthreads();
    if (more) load_keys(kv_tiles + (stage ^ stage_bytes));
    commit_copies();
    const std::uint32_t k_tile = kv_tiles + stage, v_tile = k_tile + tile_bytes;
    stage ^= stage_bytes;
    if (tiles.skip()) continue;

    float s[row_tiles][keys / 8][4];
    rows_times_rows<Columns, row_tiles, keys / 16>(s, q_rows, wide_rows<Columns>(k_tile, 0));
    tiles.mask(s);
    float largest[row_tiles][2];
#pragma unroll
    for (int i = 0; i < row_tiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = -INFINITY;
#pragma unroll
        for (int n = 0; n < keys / 8; ++n) top = fmaxf(top, fmaxf(s[i][n][2 * half], s[i][n][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(all_lanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(all_lanes, top, 2));
        largest[i][half] = top;
      }
    }
    if constexpr (Kind == ForwardKind::scored)
      keep_maxima<rows>(a.scoring, tiles.first_key(), s, largest, maxima + first_row + lane / 4);
    float factor[row_tiles][2];
    bool changed = false;
#pragma unroll
    for (int i = 0; i < row_tiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float old = maximum[i][half], now = fmaxf(old, largest[i][half]);
        const float shift = now == -INFINITY ? 0.0f : now * to_exponent;
        factor[i][half] = old == now ? 1.0f : exp2_fast(fmaf(old, to_exponent, -shift));
        changed = changed || old != now;
        maximum[i][half] = now;
        float added = 0.0f;
#pragma unroll
        for (int n = 0; n < keys / 8; ++n) {
#pragma unroll
          for (int j = 2 * half; j < 2 * half + 2; ++j) {
            s[i][n][j] = exp2_fast(fmaf(s[i][n][j], to_exponent, -shift));
            added += s[i][n][j];
          }
        }
        sum[i][half] = fmaf(sum[i][half], factor[i][half], added);
      }
    }
    if (__any_sync(all_lanes, changed)) {
#pragma unroll
      for (int i = 0; i < row_tiles; ++i) {
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[i][n][j] *= factor[i][j / 2];
        }
      }
    }
    scores_times_rows<Columns, row_tiles, keys / 16, Columns / 16>(sums, s, deep_rows<Columns>(v_tile, 0));
  }
  // Where there were no keys, copies to the q tile may still be under way.
  wait_for_copies<0>();
  __syncthreads();

  float factor[row_tiles][2];
#pragma unroll
  for (int i = 0; i < row_tiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[i][half];
      total += __shfl_xor_sync(all_lanes, total, 1);
      total += __shfl_xor_sync(all_lanes, total, 2);
      const int m = first_row + 16 * i + 8 * half + lane / 4;
      const std::int64_t row = tile.row(p, a.tiles, m);
      const float seen = maximum[i][half] * p.scale;
      float most = seen, sink = -INFINITY;
      if (a.sinks.data != nullptr && row >= 0) {
        sink = a.sinks[row % p.num_heads];
        most = fmaxf(seen, sink);
      }
      const float shift = most == -INFINITY ? 0.0f : most, part = expf(seen - shift);
      total = total * part + expf(sink - shift);
      factor[i][half] = total > 0.0f ? part / total : 0.0f;
      const float result = total > 0.0f ? shift + logf(total) : -INFINITY;
      if (lane % 4 == 0) {
        if (row >= 0) a.lse[row] = result;
        if constexpr (Kind == ForwardKind::scored) lse_rows[m] = result;
      }
    }
  }
  // Each warp reads its own rows of the q tile only, so they are free for its result.
  store_accumulators<Columns>(shared, first_row, sums, factor);
  write_rows<Columns, row_tiles * 16>(shared, first_row, p.head_dim, false, [&](int m) -> bf16* {
    const std::int64_t row = tile.row(p, a.tiles, m);
    return row < 0 ? nullptr : a.out + row * p.head_dim;
  });
}

template <int Columns, ForwardKind Kind, bool Documents>
__global__ void __launch_bounds__((ForwardTiling<Columns, Kind>::threads),
                                  (ForwardTiling<Columns, Kind>::blocks_per_multiprocessor))
    attention_forward_kernel(const __grid_constant__ ForwardArguments a) {
  using Tiling = ForwardTiling<Columns, Kind>;
  extern __shared__ __align__(128) char shared[];
  if constexpr (Kind != ForwardKind::scored) {
    forward_tile<Columns, Kind, Documents>(a, QueryTile(a.problem, a.tiles, static_cast<int>(blockIdx.x)),
                                           shared, nullptr, nullptr);
  } else {
    float* lse_rows = reinterpret_cast<float*>(shared + Tiling::tile_bytes);
    int& claimed = *reinterpret_cast<int*>(lse_rows + Tiling::rows);
    float* maxima = a.scoring.maxima + static_cast<std::int64_t>(blockIdx.x) * a.scoring.columns * Tiling::rows;
    while (true) {
      if (threadIdx.x == 0) claimed = atomicAdd(a.scoring.next_tile, 1);
      __syncthreads();
      const int index = claimed;
      if (index >= a.tile_count) return;
      const QueryTile tile(a.problem, a.tiles, index);
      forward_tile<Columns, Kind, Documents>(a, tile, shared, maxima, lse_rows);
      __syncthreads();
      choose_for_tile<Tiling::rows, Tiling::warps, Documents>(a.scoring, a.problem, tile, maxima, lse_rows);
      __syncthreads();
    }
  }
}

/// Launches it for head sizes up to Columns; columns beyond are zeros.
template <int Columns>
void launch_forward(const Stream& stream, ForwardKind kind, const ForwardArguments& arguments);

template <int Columns, ForwardKind Kind>
void launch_forward_kind(const Stream& stream, ForwardArguments a) {
  using Tiling = ForwardTiling<Columns, Kind>;
  a.tiles = QueryTiles(a.problem, Tiling::rows);
  a.tile_count = static_cast<int>(a.tiles.count(a.problem));
  std::int64_t grid = a.tile_count;
  Tensor maxima, next_tile;
  if constexpr (Kind == ForwardKind::scored) {
    if (a.tiles.chunks > 1) {
      throw_error("{} heads per key/value head: choosing blocks takes at most {} on the GPU",
                  a.problem.group_size(), Tiling::rows);
    }
    grid = std::min<std::int64_t>(grid, properties().multiprocessors * Tiling::blocks_per_multiprocessor);
    maxima = Tensor::empty({grid, a.scoring.columns, Tiling::rows}, DType::f32, stream.device);
    next_tile = Tensor::zeros({1}, DType::i32, stream.device);
    a.scoring.maxima = device_data<float>(maxima);
    a.scoring.next_tile = device_data<std::int32_t>(next_tile);
  }
  launch(stream, {dim3(static_cast<unsigned>(grid)), dim3(Tiling::threads), Tiling::shared_bytes},
         a.problem.documents != nullptr ? attention_forward_kernel<Columns, Kind, true>
                                        : attention_forward_kernel<Columns, Kind, false>,
         a);
}

}  // namespace hysparse::cuda
