/// A 128 x 128 tile of a bf16 product on the tensor cores (mma.sync m16n8k16), summed in f32 by a block of four
/// warps of 64 x 64 each. Operands come in steps of 64 along k through three stages of shared memory, filled by
/// cp.async two steps ahead.
///
/// An operand's part of a stage is 16 KiB, in one of two layouts, by which index runs fastest in memory:
///   along k        128 rows of 64 k, 128 bytes a row
///   along m or n   64 rows of 128 m or n, 256 bytes a row
/// Chunk c of 16 bytes of row r lies at place c ^ (r % 8) (the upper bit of 16 chunks stays), so that neither
/// cp.async nor ldmatrix meets a bank twice.
#pragma once

#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {

inline constexpr int mma_tile_rows = 128, mma_tile_columns = 128, mma_step = 64, mma_stages = 3;
inline constexpr int mma_threads = 128;
inline constexpr int operand_bytes = 128 * mma_step * 2, stage_bytes = 2 * operand_bytes;
inline constexpr int pipeline_bytes = mma_stages * stage_bytes;

enum class Fastest { k, other };

/// Of this thread's warp: rows g (+ 8) of 16-row blocks i and columns 2 q, 2 q + 1 of 8-column blocks j, with g
/// = lane / 4 and q = lane % 4: sum[i][j][0, 1] of row g, [2, 3] of row g + 8.
struct WarpSums {
  float at[4][8][4];
};

/// 16 bytes from global to shared memory, or zeros.
__device__ __forceinline__ void copy_chunk(unsigned shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(global),
               "r"(valid ? 16 : 0));
}
/// 4 bytes.
__device__ __forceinline__ void copy_word(unsigned shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(shared), "l"(global));
}
__device__ __forceinline__ int load_shared(unsigned shared) {
  int value;
  asm volatile("ld.shared.s32 %0, [%1];\n" : "=r"(value) : "r"(shared));
  return value;
}
__device__ __forceinline__ void store_shared(unsigned shared, int value) {
  asm volatile("st.shared.s32 [%0], %1;\n" ::"r"(shared), "r"(value) : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n");
}
/// Until at most `groups` of the last groups are under way.
template <int groups>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(groups));
}

template <bool transposed>
__device__ __forceinline__ void load_matrices(unsigned shared, unsigned (&to)[4]) {
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared));
  }
}

__device__ __forceinline__ void multiply(const unsigned (&a)[4], unsigned b0, unsigned b1, float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, "
      "%2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Where this lane's ldmatrix addresses of one operand begin, and how they go on: of 64 rows (or columns) of
/// the tile that are this warp's. `first_is_k`: whether bit 0 of the number of the four matrices goes along k
/// (B) or along the rows (A).
template <Fastest fastest, bool first_is_k>
struct FragmentAddress {
  unsigned base, swizzle;

  __device__ FragmentAddress(int lane, int warp_part) {
    const unsigned matrix = lane / 8, r = lane % 8;
    const unsigned along_k = first_is_k ? matrix & 1 : matrix >> 1,
                   along_other = first_is_k ? matrix >> 1 : matrix & 1;
    if constexpr (fastest == Fastest::k) {
      base = (warp_part * 64 + along_other * 8 + r) * 128;
      swizzle = (along_k ^ r) << 4;
    } else {
      base = (along_k * 8 + r) * 256 + warp_part * 128;
      swizzle = (along_other ^ r) << 4;
    }
  }
  /// Of 16 rows (or columns) `part` at k step `step` of 16.
  __device__ __forceinline__ unsigned at(int part, int step) const {
    if constexpr (fastest == Fastest::k) return base + part * 2048 + (swizzle ^ (step << 5));
    return base + step * 4096 + (swizzle ^ (part << 5));
  }
};

/// Adds up `steps` steps. Source copies them: copy(quarter, shared) a quarter of the next step to a stage, all
/// four in turn, then next(), in the order of steps; what next() copies is there when the step after the
/// following one is copied. The stages are free on entry and on return.
template <Fastest a_fastest, Fastest b_fastest, class Source>
__device__ __forceinline__ void sum_tile(Source& source, int steps, unsigned shared, WarpSums& sums) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const FragmentAddress<a_fastest, false> a_address(lane, warp / 2);
  const FragmentAddress<b_fastest, true> b_address(lane, warp % 2);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) sums.at[i][j][c] = 0;
    }
  }
  if (steps == 0) return;

#pragma unroll
  for (int s = 0; s < mma_stages - 1; ++s) {
    if (s < steps) {
#pragma unroll
      for (int quarter = 0; quarter < 4; ++quarter) source.copy(quarter, shared + s * stage_bytes);
      source.next();
    }
    commit_copies();
  }

  unsigned a[2][4][4], b[2][4][4];
  const auto load_fragments = [&](int buffer, unsigned stage, int step) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      load_matrices<a_fastest == Fastest::other>(stage + a_address.at(i, step), a[buffer][i]);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      load_matrices<b_fastest == Fastest::other>(stage + operand_bytes + b_address.at(j, step), b[buffer][j]);
  };
  unsigned read = shared, write = shared + (mma_stages - 1) * stage_bytes;
  const auto following = [&](unsigned stage) {
    return stage == shared + (mma_stages - 1) * stage_bytes ? shared : stage + stage_bytes;
  };
  wait_for_copies<mma_stages - 2>();
  __syncthreads();
  load_fragments(0, read, 0);
  for (int s = 0; s < steps; ++s) {
    const bool more = s + mma_stages - 1 < steps;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      if (step < 3) {
        load_fragments((step + 1) & 1, read, step + 1);
      } else {
        // The next stage has come, and all warps have left the one before.
        wait_for_copies<mma_stages - 2>();
        __syncthreads();
        read = following(read);
        if (s + 1 < steps) load_fragments(0, read, 0);
      }
      if (step < 2 && more) {
        source.copy(2 * step, write);
        source.copy(2 * step + 1, write);
      }
      if (step == 2) {
        if (more) source.next();
        commit_copies();
        write = following(write);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j)
          multiply(a[step & 1][i], b[step & 1][j / 2][j % 2 * 2], b[step & 1][j / 2][j % 2 * 2 + 1],
                   sums.at[i][j]);
      }
    }
  }
}

// ---- between fragments and rows ----

__device__ __forceinline__ unsigned pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
}
__device__ __forceinline__ float2 unpack(unsigned both) {
  return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
}

/// Four lanes q of a row have columns 2 q, 2 q + 1 of four blocks of 8 columns; then lane q has the 8 columns
/// of block q. Its own inverse. By whole warps.
__device__ __forceinline__ void transpose_quad(unsigned (&v)[4]) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const unsigned other = __shfl_xor_sync(all_lanes, odd ? v[i] : v[i + 1], 1);
    v[i] = odd ? other : v[i];
    v[i + 1] = odd ? v[i + 1] : other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const unsigned other = __shfl_xor_sync(all_lanes, upper ? v[i] : v[i + 2], 2);
    v[i] = upper ? other : v[i];
    v[i + 2] = upper ? v[i + 2] : other;
  }
}

/// Columns of four 8-column blocks of a row, as fragments have them, to 16 bytes of each lane at `to`.
__device__ __forceinline__ void store_quad(unsigned (&v)[4], bf16* to, bool valid) {
  transpose_quad(v);
  if (valid) *reinterpret_cast<uint4*>(to) = make_uint4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void load_quad(const bf16* from, bool valid, unsigned (&v)[4]) {
  const uint4 row = valid ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
  v[0] = row.x;
  v[1] = row.y;
  v[2] = row.z;
  v[3] = row.w;
  transpose_quad(v);
}

/// The four floats at `to`, aligned to 16 bytes, += value.
__device__ __forceinline__ void reduce_to(float* to, float4 value) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(to), "f"(value.x),
               "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
}

}  // namespace hysparse::cuda
