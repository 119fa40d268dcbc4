/// Operands of a tile, as the threads of a block copy them to shared memory (mma_tile.cuh): each thread one
/// chunk of 16 bytes of eight rows of a step.
#pragma once

#include "moe/cuda/mma_tile.cuh"

namespace hysparse::cuda {

/// k runs fastest: 128 rows, of which this thread copies rows row() + 16 i.
template <bool gathered>
struct RowsAlongK {
  const char* at;  ///< this thread's chunk of the next step, of its first row
  int stride;      ///< bytes from row i to i + 1 of this thread; gathered: from a row of the matrix to the next
  int left;        ///< k from this chunk on
  unsigned valid;  ///< bit i: row i is there
  int index[gathered ? 8 : 1];  ///< the rows of the matrix

  static __device__ int row() { return threadIdx.x / 8; }

  __device__ void begin(const bf16* matrix, int k) {
    const int column = threadIdx.x % 8 * 8;
    at = reinterpret_cast<const char*>(matrix + column);
    left = k - column;
  }
  __device__ __forceinline__ void copy(int i, unsigned shared) const {
    const unsigned place = row() * 128 + ((threadIdx.x % 8 ^ row() % 8) << 4);
    const char* from = at + static_cast<std::int64_t>(gathered ? index[gathered ? i : 0] : i) * stride;
    copy_chunk(shared + place + i * 2048, from, left > 0 && (valid >> i & 1));
  }
  __device__ __forceinline__ void next() {
    at += mma_step * 2;
    left -= mma_step;
  }
};

/// m or n runs fastest: of 64 rows this thread copies rows row() + 8 i, columns [column(), column() + 8).
struct RowsOfK {
  const char* at;
  int stride;  ///< bytes from a row of the matrix to the next
  int left;    ///< rows from this thread's first on; none for columns beyond the matrix

  static __device__ int row() { return threadIdx.x / 16; }
  static __device__ int column() { return threadIdx.x % 16 * 8; }
  static __device__ unsigned place() { return row() * 256 + ((threadIdx.x % 16 ^ row()) << 4); }

  __device__ void begin(const bf16* matrix, int k, int columns, int row_stride) {
    stride = row_stride * 2;
    at = reinterpret_cast<const char*>(matrix + column()) + static_cast<std::int64_t>(row()) * stride;
    left = column() < columns ? k - row() : 0;
  }
  __device__ __forceinline__ void copy(int i, unsigned shared) const {
    copy_chunk(shared + place() + i * 2048, at + static_cast<std::int64_t>(8 * i) * stride, left > 8 * i);
  }
  __device__ __forceinline__ void next() {
    at += static_cast<std::int64_t>(mma_step) * stride;
    left -= mma_step;
  }
};

/// What sum_tile takes its steps from: both operands, each from one matrix.
template <class A, class B>
struct OperandPair {
  A a;
  B b;

  __device__ __forceinline__ void copy(int quarter, unsigned shared) {
#pragma unroll
    for (int i = 2 * quarter; i < 2 * quarter + 2; ++i) {
      a.copy(i, shared);
      b.copy(i, shared + operand_bytes);
    }
  }
  __device__ __forceinline__ void next() {
    a.next();
    b.next();
  }
};

}  // namespace hysparse::cuda
