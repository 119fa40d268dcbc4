/// The rank of each id among its equals, in order of place: what stable counting sorts and capacities are made
/// of.
#pragma once

#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {

/// Warps of a block whose counts of `values` ids each fit its shared memory, `most` at most.
inline int ranking_warps(std::int64_t values, int most) {
  const std::int64_t fit =
      (properties().shared_memory_per_block - 1024) / (std::max<std::int64_t>(1, values) * sizeof(int));
  HYSPARSE_CHECK(fit >= 1, "{} experts", values);
  return static_cast<int>(std::min<std::int64_t>(most, fit));
}
inline std::int64_t ranking_bytes(int warps, std::int64_t values) {
  return std::max<std::int64_t>(1, warps * values * static_cast<std::int64_t>(sizeof(int)));
}

/// visit(a, id, start(id) + number of places in [begin, a) with the same id) for every place a of [begin, end)
/// of ids in [0, values); visit(a, id, 0) where an id is negative. By a whole block; counts: shared memory for
/// blockDim.x / 32 times `values` ints.
template <class Start, class Visit>
__device__ void rank_stably(const int* ids, std::int64_t begin, std::int64_t end, int values, int* counts,
                            Start start, Visit visit) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
  for (int i = threadIdx.x; i < warps * values; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  // Each warp has consecutive places.
  const std::int64_t each = (end - begin + warps * warp_size - 1) / (warps * warp_size) * warp_size;
  const std::int64_t mine = begin + warp * each, mine_end = mine + each < end ? mine + each : end;
  int* own = counts + warp * values;
  for (std::int64_t a = mine + lane; a < mine_end; a += warp_size) {
    if (ids[a] >= 0) atomicAdd(&own[ids[a]], 1);
  }
  __syncthreads();
  for (int v = threadIdx.x; v < values; v += blockDim.x) {
    int before = start(v);
    for (int w = 0; w < warps; ++w) {
      const int here = counts[w * values + v];
      counts[w * values + v] = before;
      before += here;
    }
  }
  __syncthreads();
  for (std::int64_t base = mine; base < mine_end; base += warp_size) {
    const std::int64_t a = base + lane;
    const int id = a < mine_end ? ids[a] : -1;
    const unsigned equals = __match_any_sync(all_lanes, id);
    const int before = __popc(equals & ((1u << lane) - 1));
    const int first = id >= 0 ? own[id] : 0;
    __syncwarp();
    if (id >= 0 && before == 0) own[id] = first + __popc(equals);
    __syncwarp();
    if (a < mine_end) visit(a, id, id >= 0 ? first + before : 0);
  }
}

}  // namespace hysparse::cuda
