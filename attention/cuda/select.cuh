/// The oracle's choice by one warp: a threshold found bit by bit, then the blocks above it in ascending order.
#pragma once

#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {

/// Ascending with x, the same for both zeros; not-a-number counts as -inf.
__device__ __forceinline__ std::uint32_t ordered_bits(float x) {
  const std::uint32_t bits = __float_as_uint(isnan(x) ? -INFINITY : x + 0.0f);  // -0 + 0 is 0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// Lists `visible` <= top blocks from `first` on, then -1. All lanes call it.
__device__ __forceinline__ void list_all_blocks(int first, int visible, int top, std::int32_t* out) {
  for (int i = static_cast<int>(threadIdx.x) % warp_size; i < top; i += warp_size)
    out[i] = i < visible ? first + i : -1;
}

/// list_top_blocks with the scores of the first 32 * Kept blocks in registers.
template <int Kept, class Score>
__device__ __forceinline__ void list_top_blocks_of(int from, int visible, int top, const Score& score,
                                                   std::int32_t* out) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  std::uint32_t own[Kept];
#pragma unroll
  for (int j = 0; j < Kept; ++j) {
    const int b = lane + j * warp_size;
    own[j] = b < visible ? ordered_bits(score(b)) : 0;
  }
  const auto count_from = [&](std::uint32_t least) {
    int count = 0;
#pragma unroll
    for (int j = 0; j < Kept; ++j) count += own[j] >= least;
    for (int b = lane + Kept * warp_size; b < visible; b += warp_size) count += ordered_bits(score(b)) >= least;
    return __reduce_add_sync(all_lanes, count);
  };
  // The largest number that at least `top` scores reach: the top-th largest score.
  std::uint32_t threshold = 0;
#pragma unroll 1
  for (std::uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if (count_from(threshold | bit) >= top) threshold |= bit;
  }
  int equal = top - count_from(threshold + 1);  // places for blocks that equal the threshold
  int written = 0;
  const std::uint32_t before = (1u << lane) - 1;
  const auto list = [&](int first, std::uint32_t x) {
    const std::uint32_t ties = __ballot_sync(all_lanes, x == threshold);
    const bool take = x > threshold || (x == threshold && __popc(ties & before) < equal);
    const std::uint32_t taken = __ballot_sync(all_lanes, take);
    if (take) out[written + __popc(taken & before)] = from + first + lane;
    written += __popc(taken);
    equal -= min(equal, __popc(ties));
  };
#pragma unroll
  for (int j = 0; j < Kept; ++j) list(j * warp_size, own[j]);
  for (int first = Kept * warp_size; first < visible && written < top; first += warp_size)
    list(first, first + lane < visible ? ordered_bits(score(first + lane)) : 0);
}

/// Lists the `top` < visible blocks first + b of largest score(b), b < visible, ties to the lower index,
/// ascending. All lanes call it; lane l asks for the scores of b congruent to l modulo 32 alone.
template <class Score>
__device__ __forceinline__ void list_top_blocks(int first, int visible, int top, const Score& score,
                                                std::int32_t* out) {
  if (top == 0) return;
  if (visible <= 4 * warp_size) return list_top_blocks_of<4>(first, visible, top, score, out);
  list_top_blocks_of<16>(first, visible, top, score, out);
}

}  // namespace hysparse::cuda
