/// Tensor-core products of bf16 tiles in shared memory (mma.sync m16n8k16, sums in f32), and the asynchronous
/// copies that fill them.
///
/// Lane l of a warp holds, of a 16 x 8 accumulator, rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
#pragma once

#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// ---- asynchronous copies to shared memory ----

/// Copies 16 bytes; zeros where not `valid`, when `from` is any address that may be formed.
__device__ __forceinline__ void copy_async_16(std::uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy_async_8(std::uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 8 : 0));
}
/// Ends a group of this thread's copies.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::);
}
/// Waits until at most the newest `Pending` groups of this thread are under way.
template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
}

// ---- tiles [rows, Columns] of bf16 in shared memory, in chunks of 16 bytes, swizzled against bank conflicts
// ----

/// What a row's chunk index is xored with.
template <int Columns>
__device__ __forceinline__ int swizzle(int row) {
  static_assert(Columns == 32 || Columns % 64 == 0);
  return Columns == 32 ? (row >> 1) & 3 : row & 7;
}
/// Byte offset of a chunk of 8 elements.
template <int Columns>
__device__ __forceinline__ std::uint32_t chunk_offset(int row, int chunk) {
  return static_cast<std::uint32_t>(row * Columns * 2 + ((chunk ^ swizzle<Columns>(row)) << 4));
}

/// Fills rows [0, Rows) of `Tensors` tiles that lie tile_bytes apart, from the same rows of each tensor: those
/// at element row_offset(row), negative for a row of zeros; columns beyond `columns` (a multiple of 8) are
/// zeros. All Threads threads call it.
template <int Columns, int Rows, int Threads, int Tensors, class RowOffset>
__device__ __forceinline__ void load_tiles(std::uint32_t tile, std::uint32_t tile_bytes,
                                           const bf16* const (&from)[Tensors], int columns,
                                           const RowOffset& row_offset) {
  constexpr int chunks = Columns / 8, rows_at_once = Threads / chunks;
  static_assert(Threads % chunks == 0 && Rows % rows_at_once == 0);
  const int chunk = static_cast<int>(threadIdx.x) % chunks;
  const bool inside = chunk * 8 < columns;
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x) / chunks; row < Rows; row += rows_at_once) {
    const std::int64_t offset = row_offset(row);
    const bool valid = inside && offset >= 0;
    const std::uint32_t to = tile + chunk_offset<Columns>(row, chunk);
#pragma unroll
    for (int t = 0; t < Tensors; ++t) {
      copy_async_16(to + static_cast<std::uint32_t>(t) * tile_bytes,
                    valid ? from[t] + offset + chunk * 8 : from[t], valid);
    }
  }
}
/// The same for rows that lie `stride` apart from element `offset` on, all of them there.
template <int Columns, int Rows, int Threads, int Tensors>
__device__ __forceinline__ void load_whole_tiles(std::uint32_t tile, std::uint32_t tile_bytes,
                                                 const bf16* const (&from)[Tensors], int columns,
                                                 std::int64_t offset, std::int64_t stride) {
  constexpr int chunks = Columns / 8, rows_at_once = Threads / chunks;
  static_assert(Threads % chunks == 0 && Rows % rows_at_once == 0);
  const int chunk = static_cast<int>(threadIdx.x) % chunks, first = static_cast<int>(threadIdx.x) / chunks;
  const bool inside = chunk * 8 < columns;
  offset += first * stride + (inside ? chunk * 8 : 0);
#pragma unroll
  for (int i = 0; i < Rows / rows_at_once; ++i) {
    const std::uint32_t to = tile + chunk_offset<Columns>(first + i * rows_at_once, chunk);
#pragma unroll
    for (int t = 0; t < Tensors; ++t) {
      copy_async_16(to + static_cast<std::uint32_t>(t) * tile_bytes, from[t] + offset, inside);
    }
    offset += rows_at_once * stride;
  }
}

// ---- fragments ----

__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// Two floats as bf16, the first in the lower half.
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
/// 2^x.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/// How a lane addresses a tile that starts at `row`: `chunk` (even) is xored in at each access.
struct LaneAddress {
  std::uint32_t base;
  std::uint32_t chunk;  ///< (lane's chunk ^ swizzle) << 4
  __device__ __forceinline__ std::uint32_t at(int even_chunk) const {
    return base + (chunk ^ static_cast<std::uint32_t>(even_chunk << 4));
  }
};
/// For 16 x 16 pieces as A, or as B where rows are the depth (transposed): rows 0-15, then the next chunk.
template <int Columns>
__device__ __forceinline__ LaneAddress deep_rows(std::uint32_t tile, int row) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, r = row + (lane & 15);
  return {tile + static_cast<std::uint32_t>(r * Columns * 2),
          static_cast<std::uint32_t>(((lane >> 4) ^ swizzle<Columns>(r)) << 4)};
}
/// For 16 rows as two n8 operands B whose depth lies along the columns.
template <int Columns>
__device__ __forceinline__ LaneAddress wide_rows(std::uint32_t tile, int row) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, r = row + (lane & 7) + ((lane >> 4) << 3);
  return {tile + static_cast<std::uint32_t>(r * Columns * 2),
          static_cast<std::uint32_t>((((lane >> 3) & 1) ^ swizzle<Columns>(r)) << 4)};
}

/// c[i][n] += A_i B^T: A rows `a[i]` (16 each), B Columns-deep rows of a tile, 16 * Pairs of them. Overwrites
/// c.
template <int Columns, int RowTiles, int Pairs>
__device__ __forceinline__ void rows_times_rows(float (&c)[RowTiles][2 * Pairs][4],
                                                const LaneAddress (&a)[RowTiles], const LaneAddress& b) {
#pragma unroll
  for (int i = 0; i < RowTiles; ++i) {
#pragma unroll
    for (int n = 0; n < 2 * Pairs; ++n) c[i][n][0] = c[i][n][1] = c[i][n][2] = c[i][n][3] = 0.0f;
  }
#pragma unroll
  for (int k = 0; k < Columns / 16; ++k) {
    std::uint32_t left[RowTiles][4];
#pragma unroll
    for (int i = 0; i < RowTiles; ++i) load_matrices(left[i], a[i].at(2 * k));
#pragma unroll
    for (int n = 0; n < Pairs; ++n) {
      std::uint32_t right[4];
      load_matrices(right, b.at(2 * k) + static_cast<std::uint32_t>(n * 16 * Columns * 2));
#pragma unroll
      for (int i = 0; i < RowTiles; ++i) {
        multiply_add(c[i][2 * n], left[i], right[0], right[1]);
        multiply_add(c[i][2 * n + 1], left[i], right[2], right[3]);
      }
    }
  }
}

/// c[i][n] += P_i V: P accumulators [16, 16 * Depths] rounded to bf16, V 16 * Depths rows of a tile, its
/// columns from 8 * first_chunk on, 16 * Pairs of them.
template <int Columns, int RowTiles, int Depths, int Pairs>
__device__ __forceinline__ void scores_times_rows(float (&c)[RowTiles][2 * Pairs][4],
                                                  const float (&p)[RowTiles][2 * Depths][4],
                                                  const LaneAddress& v, int first_chunk = 0) {
#pragma unroll
  for (int k = 0; k < Depths; ++k) {
    std::uint32_t left[RowTiles][4];
#pragma unroll
    for (int i = 0; i < RowTiles; ++i) {
      left[i][0] = pack(p[i][2 * k][0], p[i][2 * k][1]);
      left[i][1] = pack(p[i][2 * k][2], p[i][2 * k][3]);
      left[i][2] = pack(p[i][2 * k + 1][0], p[i][2 * k + 1][1]);
      left[i][3] = pack(p[i][2 * k + 1][2], p[i][2 * k + 1][3]);
    }
#pragma unroll
    for (int n = 0; n < Pairs; ++n) {
      std::uint32_t right[4];
      load_matrices_transposed(right,
                               v.at(first_chunk + 2 * n) + static_cast<std::uint32_t>(k * 16 * Columns * 2));
#pragma unroll
      for (int i = 0; i < RowTiles; ++i) {
        multiply_add(c[i][2 * n], left[i], right[0], right[1]);
        multiply_add(c[i][2 * n + 1], left[i], right[2], right[3]);
      }
    }
  }
}

/// Writes accumulators times factor[i][half] as bf16 into rows row + 16 i of a tile, columns from 0 on.
template <int Columns, int RowTiles, int Pieces>
__device__ __forceinline__ void store_accumulators(char* tile, int row, const float (&c)[RowTiles][Pieces][4],
                                                   const float (&factor)[RowTiles][2]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
  for (int i = 0; i < RowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 16 * i + 8 * half + lane / 4;
#pragma unroll
      for (int n = 0; n < Pieces; ++n) {
        *reinterpret_cast<std::uint32_t*>(tile + chunk_offset<Columns>(r, n) + (lane % 4) * 4) =
            pack(c[i][n][2 * half] * factor[i][half], c[i][n][2 * half + 1] * factor[i][half]);
      }
    }
  }
}

/// A warp copies rows [row, row + Rows) of a tile to row_address(r), a `bf16*` or null for rows to leave;
/// `add`: adds to what is there.
template <int Columns, int Rows, class RowAddress>
__device__ __forceinline__ void write_rows(const char* tile, int row, int columns, bool add,
                                           const RowAddress& row_address) {
  constexpr int chunks = Columns / 8;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < Rows * chunks; i += warp_size) {
    const int r = row + i / chunks, chunk = i % chunks;
    bf16* to = row_address(r);
    if (to == nullptr || chunk * 8 >= columns) continue;
    to += chunk * 8;
    uint4 bits = *reinterpret_cast<const uint4*>(tile + chunk_offset<Columns>(r, chunk));
    if (add) {
      float a[8], b[8];
      load(reinterpret_cast<const bf16*>(&bits), a);
      load(to, b);
#pragma unroll
      for (int j = 0; j < 8; ++j) a[j] += b[j];
      store(to, a);
    } else {
      *reinterpret_cast<uint4*>(to) = bits;
    }
  }
}

}  // namespace hysparse::cuda
