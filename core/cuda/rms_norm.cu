#include "core/cuda/kernel.cuh"
#include "core/cuda/rms_norm.h"

namespace hysparse::cuda {
namespace {

/// Most blocks of rows that dweight is gathered over.
constexpr std::int64_t max_blocks = 528;
constexpr int max_threads = 1024;

// A row belongs to blockDim.x threads; a block that is one warp wide works on blockDim.y rows. Each thread
// takes vectors of N at a stride of the block.

template <class T, int N>
__global__ void __launch_bounds__(max_threads)
    forward_kernel(std::int64_t rows, int width, const T* x, const T* delta, const T* weight, float eps, T* sum,
                   T* y, float* reciprocal) {
  __shared__ float scratch[warp_size];
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const std::int64_t at = row * width;
  const int stride = static_cast<int>(blockDim.x) * N, begin = static_cast<int>(threadIdx.x) * N;
  float v[N], squares = 0;
  for (int i = begin; i < width; i += stride) {
    load<N>(x + at + i, v);
    if (delta != nullptr) {
      float d[N];
      load<N>(delta + at + i, d);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = to_float(from_float<T>(v[j] + d[j]));  // as it is stored
      store<N>(sum + at + i, v);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) squares += v[j] * v[j];
  }
  squares = block_sum(squares, scratch);
  const float r = rsqrtf(squares / static_cast<float>(width) + eps);
  const T* normed = delta != nullptr ? sum : x;
  for (int i = begin; i < width; i += stride) {
    if (i != begin || width > stride) load<N>(normed + at + i, v);  // else it is still there
    float w[N];
    load<N>(weight + i, w);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] *= r * w[j];
    store<N>(y + at + i, v);
  }
  if (threadIdx.x == 0) reciprocal[row] = r;
}

template <class T>
struct Backward {
  const T *x, *weight, *dy, *dsum;
  const float* reciprocal;
  T *dx, *ddelta;
  float* partial;  ///< [gridDim.x, width]; null: no dweight
  bool add_x, add_delta;
};

template <int N, class T>
__device__ __forceinline__ void write(T* out, bool add, const float (&d)[N]) {
  float v[N];
#pragma unroll
  for (int j = 0; j < N; ++j) v[j] = d[j];
  if (add) {
    float old[N];
    load<N>(out, old);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] += old[j];
  }
  store<N>(out, v);
}

/// d of one vector: what goes to dx and ddelta.
template <class T, int N>
__device__ __forceinline__ void finish(const Backward<T>& a, std::int64_t at, float r, float scale,
                                       const float (&x)[N], const float (&w)[N], const float (&dy)[N],
                                       const float (&dsum)[N]) {
  float d[N];
#pragma unroll
  for (int j = 0; j < N; ++j) d[j] = dsum[j] + (dy[j] * w[j] * r - x[j] * scale);
  if (a.dx != nullptr) write<N>(a.dx + at, a.add_x, d);
  if (a.ddelta != nullptr) write<N>(a.ddelta + at, a.add_delta, d);
}

/// Rows [blockIdx.x * rows_per_block, ..) of at most one vector a thread. dweight's terms gather in registers,
/// and the next row is on its way while this one's sum is made.
template <class T, int N>
__global__ void __launch_bounds__(max_threads)
    backward_kernel(std::int64_t rows, std::int64_t rows_per_block, int width, Backward<T> a) {
  __shared__ float scratch[2][warp_size];
  const int column = static_cast<int>(threadIdx.x) * N;
  const bool mine = column < width;
  const std::int64_t first = blockIdx.x * rows_per_block, last = min(rows, first + rows_per_block);
  Vector<T, N> next_x{}, next_dy{};
  const auto fetch = [&](std::int64_t row) {
    if (!mine || row >= last) return;
    next_x = *reinterpret_cast<const Vector<T, N>*>(a.x + row * width + column);
    next_dy = *reinterpret_cast<const Vector<T, N>*>(a.dy + row * width + column);
  };
  float w[N] = {}, dweight[N] = {};
  fetch(first);
  if (mine) load<N>(a.weight + column, w);
  for (std::int64_t row = first; row < last; ++row) {
    const std::int64_t at = row * width + column;
    const float r = a.reciprocal[row];
    float x[N], dy[N], dsum[N] = {}, inner = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      x[j] = to_float(next_x.at[j]);
      dy[j] = to_float(next_dy.at[j]);
      inner += dy[j] * w[j] * x[j];
    }
    fetch(row + 1);
    if (mine && a.dsum != nullptr) load<N>(a.dsum + at, dsum);
    // Two scratches by turns: a warp may be a row ahead of one that still reads.
    inner = block_sum(inner, scratch[(row - first) % 2]);
    if (!mine) continue;
    finish<T, N>(a, at, r, inner * r * r * r / static_cast<float>(width), x, w, dy, dsum);
#pragma unroll
    for (int j = 0; j < N; ++j) dweight[j] += dy[j] * (x[j] * r);
  }
  if (mine && a.partial != nullptr) {
    store<N>(a.partial + static_cast<std::int64_t>(blockIdx.x) * width + column, dweight);
  }
}

/// The same for rows of any width. dweight's terms gather in shared memory, [width] f32, each column by the
/// thread that works on it.
template <class T, int N>
__global__ void __launch_bounds__(max_threads)
    wide_backward_kernel(std::int64_t rows, std::int64_t rows_per_block, int width, Backward<T> a) {
  __shared__ float scratch[2][warp_size];
  extern __shared__ float dweight[];
  const int stride = static_cast<int>(blockDim.x) * N, begin = static_cast<int>(threadIdx.x) * N;
  if (a.partial != nullptr) {
    for (int i = begin; i < width; i += stride) {
#pragma unroll
      for (int j = 0; j < N; ++j) dweight[i + j] = 0;
    }
  }
  const std::int64_t first = blockIdx.x * rows_per_block;
  for (std::int64_t row = first; row < min(rows, first + rows_per_block); ++row) {
    const std::int64_t at = row * width;
    const float r = a.reciprocal[row];
    float x[N], w[N], dy[N], inner = 0;
    const auto fetch = [&](int i) {
      load<N>(a.x + at + i, x);
      load<N>(a.dy + at + i, dy);
      load<N>(a.weight + i, w);
    };
    for (int i = begin; i < width; i += stride) {
      fetch(i);
#pragma unroll
      for (int j = 0; j < N; ++j) inner += dy[j] * w[j] * x[j];
    }
    inner = block_sum(inner, scratch[(row - first) % 2]);
    const float scale = inner * r * r * r / static_cast<float>(width);
    for (int i = begin; i < width; i += stride) {
      fetch(i);
      float dsum[N] = {};
      if (a.dsum != nullptr) load<N>(a.dsum + at + i, dsum);
      finish<T, N>(a, at + i, r, scale, x, w, dy, dsum);
      if (a.partial == nullptr) continue;
#pragma unroll
      for (int j = 0; j < N; ++j) dweight[i + j] += dy[j] * (x[j] * r);
    }
  }
  if (a.partial == nullptr) return;
  for (int i = begin; i < width; i += stride) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      a.partial[static_cast<std::int64_t>(blockIdx.x) * width + i + j] = dweight[i + j];
    }
  }
}

/// out[c] += the sum over rows of partial [rows, width]: threads of y take every 32nd row, then these are added
/// in order.
__global__ void column_sum_kernel(int rows, int width, const float* partial, float* out) {
  __shared__ float sums[warp_size][warp_size + 1];
  const int column = static_cast<int>(blockIdx.x) * warp_size + static_cast<int>(threadIdx.x);
  float sum = 0;
  if (column < width) {
    for (int row = static_cast<int>(threadIdx.y); row < rows; row += warp_size)
      sum += partial[static_cast<std::int64_t>(row) * width + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  const float total = warp_sum(sums[threadIdx.x][threadIdx.y]);
  const int mine = static_cast<int>(blockIdx.x) * warp_size + static_cast<int>(threadIdx.y);
  if (threadIdx.x == 0 && mine < width) out[mine] += total;
}

unsigned threads_for(std::int64_t vectors) {
  return static_cast<unsigned>(std::min<std::int64_t>(max_threads, ceil_div(vectors, warp_size) * warp_size));
}

}  // namespace

void rms_norm_forward(const Stream& stream, const cpu::RmsNormForward& args) {
  const std::int64_t rows = args.reciprocal.numel(), width = args.weight.numel();
  if (rows == 0 || width == 0) return;
  dispatch_compute(args.x.dtype(), [&]<class T>() {
    const T *x = device_data<T>(args.x), *delta = device_data_or_null<T>(args.delta),
            *weight = device_data<T>(args.weight);
    T *sum = device_data_or_null<T>(args.sum), *y = device_data<T>(args.y);
    const auto run = [&]<int N>(decltype(&forward_kernel<T, N>) kernel) {
      const unsigned wide = threads_for(ceil_div(width, N)), high = wide == warp_size ? 4 : 1;
      launch(stream, {static_cast<unsigned>(ceil_div(rows, high)), {wide, high}}, kernel, rows, width, x, delta,
             weight, args.eps, sum, y, device_data<float>(args.reciprocal));
    };
    constexpr int n = vector_width<T>;
    if (width % n == 0 && aligned_to(16, x, delta, weight, sum, y)) {
      run.template operator()<n>(forward_kernel<T, n>);
    } else {
      run.template operator()<1>(forward_kernel<T, 1>);
    }
  });
}

void rms_norm_backward(const Stream& stream, const cpu::RmsNormBackward& args) {
  const std::int64_t rows = args.reciprocal.numel(), width = args.weight.numel();
  if (rows == 0 || width == 0) return;
  const std::int64_t rows_per_block = ceil_div(rows, max_blocks), blocks = ceil_div(rows, rows_per_block);
  const bool wants_weight = args.dweight.defined();
  const Tensor partial = wants_weight ? Tensor::empty({blocks, width}, DType::f32, args.x.device()) : Tensor();
  dispatch_compute(args.x.dtype(), [&]<class T>() {
    const Backward<T> a{device_data<T>(args.x),
                        device_data<T>(args.weight),
                        device_data<T>(args.dy),
                        device_data_or_null<T>(args.dsum),
                        device_data<float>(args.reciprocal),
                        device_data_or_null<T>(args.dx),
                        device_data_or_null<T>(args.ddelta),
                        device_data_or_null<float>(partial),
                        args.add_x,
                        args.add_delta};
    const auto run = [&]<int N>(void (*kernel)(std::int64_t, std::int64_t, int, Backward<T>),
                                std::int64_t shared) {
      launch(stream, {static_cast<unsigned>(blocks), threads_for(ceil_div(width, N)), shared}, kernel, rows,
             rows_per_block, width, a);
    };
    constexpr int n = vector_width<T>;
    const std::int64_t shared = wants_weight ? width * static_cast<std::int64_t>(sizeof(float)) : 0;
    const bool vectors = width % n == 0 && aligned_to(16, a.x, a.weight, a.dy, a.dsum, a.dx, a.ddelta);
    if (vectors && width <= max_threads * n) {
      run.template operator()<n>(backward_kernel<T, n>, 0);
    } else if (vectors) {
      run.template operator()<n>(wide_backward_kernel<T, n>, shared);
    } else {
      run.template operator()<1>(wide_backward_kernel<T, 1>, shared);
    }
  });
  if (!wants_weight) return;
  launch(stream, {static_cast<unsigned>(ceil_div(width, warp_size)), {warp_size, warp_size}}, column_sum_kernel,
         blocks, width, device_data<float>(partial), device_data<float>(args.dweight));
}

}  // namespace hysparse::cuda
