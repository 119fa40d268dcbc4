/// Work on one head's vector at a time: a few neighbouring lanes hold it, 8 elements each.
#pragma once

#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {

inline constexpr int lane_width = 8;  ///< elements of a lane

/// Lanes of a head of head_dim elements: the power of two that covers it.
inline int lanes_of_head(std::int64_t head_dim) {
  if (head_dim % lane_width != 0 || head_dim > lane_width * warp_size || head_dim < lane_width) {
    throw_error("head size {}: the GPU's kernels take multiples of {}, up to {}", head_dim, lane_width,
                lane_width * warp_size);
  }
  int lanes = 1;
  while (lanes * lane_width < head_dim) lanes *= 2;
  return lanes;
}

/// Over the lanes of a head; every lane of the warp calls it.
__device__ __forceinline__ float head_sum(float x, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(all_lanes, x, offset);
  return x;
}

/// 8 elements, in accesses of 16 bytes.
__device__ __forceinline__ void load_8(const bf16* from, float (&to)[lane_width]) {
  load(from, to);
}
__device__ __forceinline__ void load_8(const float* from, float (&to)[lane_width]) {
  float a[4], b[4];
  load(from, a);
  load(from + 4, b);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[i] = a[i];
    to[4 + i] = b[i];
  }
}
__device__ __forceinline__ void store_8(bf16* to, const float (&from)[lane_width]) {
  store(to, from);
}
__device__ __forceinline__ void store_8(float* to, const float (&from)[lane_width]) {
  const float a[4] = {from[0], from[1], from[2], from[3]}, b[4] = {from[4], from[5], from[6], from[7]};
  store(to, a);
  store(to + 4, b);
}
/// to (+)= from.
template <class T>
__device__ __forceinline__ void put_8(T* to, float (&from)[lane_width], bool add) {
  if (add) {
    float old[lane_width];
    load_8(to, old);
#pragma unroll
    for (int i = 0; i < lane_width; ++i) from[i] += old[i];
  }
  store_8(to, from);
}

}  // namespace hysparse::cuda
