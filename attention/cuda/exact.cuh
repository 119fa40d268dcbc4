/// What the f32 kernels share. A warp works on one query row or one key; the other side comes in chunks of 32,
/// one per lane.
#pragma once

#include "attention/cuda/problem.cuh"

namespace hysparse::cuda {

inline constexpr int exact_warps = 8;     ///< of a thread block
inline constexpr int exact_per_lane = 8;  ///< elements of a head that a lane sums: e = lane + 32 j

/// sum_e (a[e] * scale) * b[e] for e < n, in ascending order; a and b lie at multiples of n in global memory.
__device__ __forceinline__ float chain(const float* a, const float* b, int n, float scale) {
  float sum = 0.0f;
  if (n % 4 != 0) {
    for (int e = 0; e < n; ++e) sum = fmaf(a[e] * scale, b[e], sum);
    return sum;
  }
  for (int e = 0; e < n; e += 4) {
    const float4 x = *reinterpret_cast<const float4*>(a + e), y = *reinterpret_cast<const float4*>(b + e);
    sum = fmaf(x.x * scale, y.x, sum);
    sum = fmaf(x.y * scale, y.y, sum);
    sum = fmaf(x.z * scale, y.z, sum);
    sum = fmaf(x.w * scale, y.w, sum);
  }
  return sum;
}

/// Calls body(key) for the keys that the token sees, 32 at a time, key -1 for lanes without one.
template <class Body>
__device__ __forceinline__ void for_keys(const Problem& p, std::int64_t token_row, int group,
                                         const Body& body) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int position = p.start + static_cast<int>(token_row % p.query_len);
  const int document = p.documents != nullptr ? p.documents[token_row] : 0;
  const auto span = [&](int begin, int end) {
    for (int first = begin; first < end; first += warp_size) body(first + lane < end ? first + lane : -1);
  };
  if (p.blocks == nullptr) return span(max(document, position - p.window + 1), position + 1);
  const std::int64_t list = token_row * p.num_kv_heads + group;
  for (int i = 0; i < p.counts[list]; ++i) {
    const int begin = p.blocks[list * p.top + i] * p.block_size;
    span(max(begin, document), min(begin + p.block_size, position + 1));
  }
}

/// First element of a key.
__device__ __forceinline__ std::int64_t key_offset(const Problem& p, int sequence, int group, int key) {
  const int row = key < p.key_rows ? key : key % p.key_rows;
  return ((static_cast<std::int64_t>(sequence) * p.key_rows + row) * p.num_kv_heads + group) * p.head_dim;
}

/// The warp of this thread within the grid.
__device__ __forceinline__ std::int64_t warp_in_grid() {
  return (blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x) / warp_size;
}
inline Launch warps(std::int64_t count) {
  return {dim3(static_cast<unsigned>(ceil_div(count, exact_warps))), dim3(exact_warps * warp_size)};
}

}  // namespace hysparse::cuda
