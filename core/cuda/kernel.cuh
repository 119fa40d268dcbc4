/// What device code of every folder is written with: dtypes, vectors, reductions in a fixed order, launches.
#pragma once

#include <cfloat>
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "core/cuda/context.h"
#include "core/cuda/error.h"
#include "core/tensor.h"

namespace hysparse::cuda {

using bf16 = __nv_bfloat16;

inline constexpr int warp_size = 32;
inline constexpr unsigned all_lanes = 0xffffffffu;

inline cudaStream_t stream_of(const Stream& stream) {
  HYSPARSE_CHECK(!stream.device.is_cpu() && stream.native != nullptr, "stream of {}", stream.device.str());
  return static_cast<cudaStream_t>(stream.native);
}

// ---- tensors ----

/// The element type in device code is the tensor's, but for bf16.
template <class T>
struct StoredAs {
  using type = T;
};
template <>
struct StoredAs<bf16> {
  using type = BFloat16;
};

/// First element, of a tensor on the GPU with T's dtype.
template <class T>
T* device_data(const Tensor& t) {
  HYSPARSE_CHECK(!t.device().is_cpu(), "tensor {} lies on the CPU", t.shape().str());
  return reinterpret_cast<T*>(t.data<typename StoredAs<T>::type>());
}
/// nullptr where the tensor is undefined.
template <class T>
T* device_data_or_null(const Tensor& t) {
  return t.defined() ? device_data<T>(t) : nullptr;
}

/// Calls `f.template operator()<T>()` with float or bf16. f64 is for the CPU.
template <class F>
decltype(auto) dispatch_compute(DType dtype, F&& f) {
  HYSPARSE_CHECK(dtype == DType::f32 || dtype == DType::bf16, "dtype {} on the GPU", dtype_name(dtype));
  if (dtype == DType::bf16) return f.template operator()<bf16>();
  return f.template operator()<float>();
}

// ---- elements and vectors ----

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
  return __bfloat162float(x);
}
/// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

/// N elements that move as one access; the address is a multiple of its size (16 bytes at most per access).
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};
/// Elements of T in 16 bytes.
template <class T>
inline constexpr int vector_width = 16 / static_cast<int>(sizeof(T));

template <int N, class T>
__device__ __forceinline__ void load(const T* from, float (&to)[N]) {
  const auto v = *reinterpret_cast<const Vector<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = to_float(v.at[i]);
}
template <int N, class T>
__device__ __forceinline__ void store(T* to, const float (&from)[N]) {
  Vector<T, N> v;
#pragma unroll
  for (int i = 0; i < N; ++i) v.at[i] = from_float<T>(from[i]);
  *reinterpret_cast<Vector<T, N>*>(to) = v;
}

/// Whether all the addresses are multiples of `bytes` (null: yes).
template <class... Pointers>
bool aligned_to(std::uintptr_t bytes, Pointers... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) % bytes == 0) && ...);
}

/// Walks [0, n) over the grid's threads: body.operator()<N>(i) for whole vectors, operator()<1>(i) for the
/// rest.
template <int N, class F>
__device__ __forceinline__ void for_each_vector(std::int64_t n, F&& body) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = thread * N; i + N <= n; i += threads * N) body.template operator()<N>(i);
  if constexpr (N > 1) {
    for (std::int64_t i = n / N * N + thread; i < n; i += threads) body.template operator()<1>(i);
  }
}

// ---- reductions; every lane or thread gets the result, which depends on the values' places alone ----

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(all_lanes, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(all_lanes, x, offset));
  return x;
}

/// Over the block's blockDim.x threads (a multiple of 32, at most 1024), which all call it. `scratch`: 32
/// values in shared memory, free again after the next __syncthreads().
template <class T>
__device__ __forceinline__ T block_sum(T x, T* scratch) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  x = warp_sum(x);
  if (blockDim.x == warp_size) return x;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < blockDim.x / warp_size ? scratch[lane] : T(0));
}
__device__ __forceinline__ float block_max(float x, float* scratch) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  x = warp_max(x);
  if (blockDim.x == warp_size) return x;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_max(lane < blockDim.x / warp_size ? scratch[lane] : -INFINITY);
}

// ---- launches ----

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
/// Blocks for n elements, for kernels that walk in strides of the grid: enough to fill the GPU, no more.
inline unsigned grid_for(std::int64_t n, std::int64_t per_block, int blocks_per_multiprocessor = 8) {
  return static_cast<unsigned>(
      std::min<std::int64_t>(ceil_div(n, per_block), properties().multiprocessors * blocks_per_multiprocessor));
}

struct Launch {
  dim3 grid, block;
  std::int64_t shared_bytes = 0;  ///< dynamic shared memory
};

/// Runs kernel(args...) on the stream; an empty grid is nothing to do. Throws Failure when it cannot start.
template <class... Parameters, class... Args>
void launch(const Stream& stream, const Launch& how, void (*kernel)(Parameters...), Args&&... args) {
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
  // Of 48 KiB, static shared memory has its part too.
  constexpr std::int64_t without_asking = 32 << 10;
  if (how.shared_bytes > without_asking) {
    HYSPARSE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(how.shared_bytes)));
  }
  kernel<<<how.grid, how.block, static_cast<std::size_t>(how.shared_bytes), stream_of(stream)>>>(
      static_cast<Parameters>(args)...);
  HYSPARSE_CUDA_CHECK(cudaGetLastError());
}

}  // namespace hysparse::cuda
