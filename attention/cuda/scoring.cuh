/// The oracle inside the forward kernel: each row's largest logit of every block of keys is kept in scratch
/// memory of the thread block (in L2), and when the tile's lse is known each token's blocks are listed. No
/// score per head is kept longer than its tile.
#pragma once

#include "attention/cuda/problem.cuh"
#include "attention/cuda/select.cuh"

namespace hysparse::cuda {

/// Fills the lists, or `scores` [S*T, G, columns] where not null.
struct Scoring {
  int block_size = 0, top = 0, columns = 0;  ///< columns: N, all blocks
  Divider by_block;
  std::int32_t *blocks = nullptr, *counts = nullptr;
  float* scores = nullptr;
  float* maxima = nullptr;   ///< [thread blocks, N, rows of a tile], in units of q.k
  int* next_tile = nullptr;  ///< zero at the start
};

/// Takes in the masked logits of keys [first_key, first_key + 8 Pieces), whose largest per row are `largest`.
/// `maxima`: of the lane's first row.
template <int Rows, int RowTiles, int Pieces>
__device__ __forceinline__ void keep_maxima(const Scoring& scoring, int first_key,
                                            const float (&s)[RowTiles][Pieces][4],
                                            const float (&largest)[RowTiles][2], float* maxima) {
  constexpr int keys = 8 * Pieces;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  int block = scoring.by_block.divide(first_key);
  if (scoring.block_size % keys == 0) {
    if (lane % 4 != 0) return;
    const bool fresh = first_key == block * scoring.block_size;
    float* kept = maxima + block * Rows;
#pragma unroll
    for (int i = 0; i < RowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* at = kept + 16 * i + 8 * half;
        *at = fresh ? largest[i][half] : fmaxf(*at, largest[i][half]);
      }
    }
    return;
  }
#pragma unroll 1
  for (; block * scoring.block_size < first_key + keys && block < scoring.columns; ++block) {
    const int from = block * scoring.block_size - first_key, to = from + scoring.block_size;
    float* kept = maxima + block * Rows;
#pragma unroll
    for (int i = 0; i < RowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = -INFINITY;
#pragma unroll
        for (int n = 0; n < Pieces; ++n) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int column = 8 * n + lane % 4 * 2 + j;
            if (column >= from && column < to) most = fmaxf(most, s[i][n][2 * half + j]);
          }
        }
        most = fmaxf(most, __shfl_xor_sync(all_lanes, most, 1));
        most = fmaxf(most, __shfl_xor_sync(all_lanes, most, 2));
        float* at = kept + 16 * i + 8 * half;
        if (lane % 4 == 0) *at = from >= 0 ? most : fmaxf(*at, most);
      }
    }
  }
}

/// max over heads of maximum * scale - lse, of one token's `heads` rows.
__device__ __forceinline__ float block_score(const float* maxima, const float* lse, int heads, float scale) {
  float score = -INFINITY;
  if (heads % 4 != 0) {
    for (int r = 0; r < heads; ++r) score = fmaxf(score, fmaf(maxima[r], scale, -lse[r]));
    return score;
  }
#pragma unroll 4
  for (int r = 0; r < heads; r += 4) {
    const float4 x = *reinterpret_cast<const float4*>(maxima + r),
                 y = *reinterpret_cast<const float4*>(lse + r);
    score = fmaxf(score, fmaxf(fmaxf(fmaf(x.x, scale, -y.x), fmaf(x.y, scale, -y.y)),
                               fmaxf(fmaf(x.z, scale, -y.z), fmaf(x.w, scale, -y.w))));
  }
  return score;
}

/// Lists the blocks of a tile's tokens, or writes their scores. Overwrites the maxima.
template <int Rows, int Warps, bool Documents>
__device__ __forceinline__ void choose_for_tile(const Scoring& scoring, const Problem& p, const QueryTile& tile,
                                                float* maxima, const float* lse_rows) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
#pragma unroll 1
  for (int token = warp; token < tile.tokens; token += Warps) {
    const std::int64_t list =
        (static_cast<std::int64_t>(tile.sequence) * p.query_len + tile.first + token) * p.num_kv_heads +
        tile.group;
    int first = 0;  // block
    if constexpr (Documents) first = scoring.by_block.divide(p.starts(tile.sequence)[tile.first + token]);
    const int visible = scoring.by_block.divide(p.start + tile.first + token) + 1 - first,
              row = token * tile.heads;
    if (scoring.scores == nullptr) {
      if (lane == 0) scoring.counts[list] = min(scoring.top, visible);
      if (visible <= scoring.top) {
        list_all_blocks(first, visible, scoring.top, scoring.blocks + list * scoring.top);
        continue;
      }
    }
#pragma unroll 2
    for (int b = lane; b < visible; b += warp_size) {
      float* of_token = maxima + static_cast<std::int64_t>(first + b) * Rows + row;
      *of_token = block_score(of_token, lse_rows + row, tile.heads, p.scale);
    }
    const auto score = [&](int b) { return maxima[static_cast<std::int64_t>(first + b) * Rows + row]; };
    if (scoring.scores == nullptr) {
      list_top_blocks(first, visible, scoring.top, score, scoring.blocks + list * scoring.top);
    } else {
      float* out = scoring.scores + list * scoring.columns;
      for (int b = lane; b < first; b += warp_size) out[b] = -INFINITY;
      for (int b = lane; first + b < scoring.columns; b += warp_size)
        out[first + b] = b < visible ? score(b) : -INFINITY;
    }
  }
}

}  // namespace hysparse::cuda
