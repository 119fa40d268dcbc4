/// Which expert and tile a block works on, from sizes that lie on the device. Every block works the list out
/// for itself and takes every gridDim.x-th tile: no launch depends on a size that the host does not know.
#pragma once

#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {

/// Sorted rows of the experts, as in cpu/experts.h.
struct RowsOfExperts {
  const int *offsets, *sources, *assignments;
  int experts;
};

/// The tiles of an expert: m x n, in bands of band rows of tiles that go along n, so that what a wave of blocks
/// reads is small.
struct TileGrid {
  static constexpr int band = 16;
  int m, n;

  __host__ __device__ int count() const { return m * n; }
  __device__ void locate(int tile, int& m_tile, int& n_tile) const {
    const int first = tile / (band * n) * band, rows = min(band, m - first), within = tile % (band * n);
    m_tile = first + within % rows;
    n_tile = within / rows;
  }
};

struct ExpertTile {
  int expert, begin, rows;  ///< its sorted rows [begin, begin + rows)
  int m_tile, n_tile;
};

/// The sums of tiles over earlier experts, in shared memory: E + 1 ints.
inline std::int64_t schedule_bytes(std::int64_t experts) {
  return (experts + 1) * static_cast<std::int64_t>(sizeof(int));
}

/// Fills `firsts`; grid_of(rows) gives an expert's tiles. By the whole block, of at most 1024 threads; returns
/// the number of all tiles. Ends with a barrier.
template <class GridOf>
__device__ int make_schedule(const RowsOfExperts& rows, int* firsts, GridOf grid_of) {
  __shared__ int warp_totals[warp_size];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int each = (rows.experts + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x);
  const int begin = min(static_cast<int>(threadIdx.x) * each, rows.experts),
            end = min(begin + each, rows.experts);
  int own = 0;
  for (int e = begin; e < end; ++e) own += grid_of(rows.offsets[e + 1] - rows.offsets[e]).count();
  int inclusive = own;
#pragma unroll
  for (int offset = 1; offset < warp_size; offset *= 2) {
    const int other = __shfl_up_sync(all_lanes, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == warp_size - 1) warp_totals[warp] = inclusive;
  __syncthreads();
  int before = inclusive - own, total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / warp_size; ++w) {
    if (w < warp) before += warp_totals[w];
    total += warp_totals[w];
  }
  for (int e = begin; e < end; ++e) {
    firsts[e] = before;
    before += grid_of(rows.offsets[e + 1] - rows.offsets[e]).count();
  }
  if (threadIdx.x == 0) firsts[rows.experts] = total;
  __syncthreads();
  return total;
}

template <class GridOf>
__device__ ExpertTile find_tile(const RowsOfExperts& rows, const int* firsts, int tile, GridOf grid_of) {
  int low = 0, high = rows.experts - 1;  // the last expert that begins at or before the tile
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (firsts[middle] <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  ExpertTile result{low, rows.offsets[low], 0, 0, 0};
  result.rows = rows.offsets[low + 1] - result.begin;
  grid_of(result.rows).locate(tile - firsts[low], result.m_tile, result.n_tile);
  return result;
}

}  // namespace hysparse::cuda
