#include "core/cuda/cross_entropy.h"
#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {
namespace {

constexpr int threads = 512;

/// exp(x - top) summed, as one goes: the largest so far, and the sum against it.
struct RunningSum {
  float top = -INFINITY;
  float sum = 0;

  template <int N>
  __device__ __forceinline__ void add(const float (&x)[N]) {
    float most = x[0];
#pragma unroll
    for (int j = 1; j < N; ++j) most = fmaxf(most, x[j]);
    if (most > top) {
      sum *= __expf(top - most);
      top = most;
    }
    const float shift = top == -INFINITY ? 0.0f : top;  // of nothing but -inf the sum is 0
#pragma unroll
    for (int j = 0; j < N; ++j) sum += __expf(x[j] - shift);
  }
};

/// The block's row: logsumexp, in every thread.
template <class T, int N>
__device__ __forceinline__ double row_logsumexp(std::int64_t width, const T* row) {
  __shared__ float scratch[2][warp_size];
  RunningSum running;
  for (std::int64_t i = threadIdx.x * N; i < width; i += threads * N) {
    float x[N];
    load<N>(row + i, x);
    running.add(x);
  }
  const float top = block_max(running.top, scratch[0]);
  // A thread without columns has -inf and 0.
  const float share = running.top == -INFINITY ? running.sum : running.sum * __expf(running.top - top);
  const float sum = block_sum(share, scratch[1]);
  return static_cast<double>(top) + log(static_cast<double>(sum));
}

template <class T, int N>
__global__ void __launch_bounds__(threads)
    forward_kernel(std::int64_t width, const T* logits, const std::int32_t* targets, float* lse,
                   double* losses) {
  const std::int64_t r = blockIdx.x;
  const T* row = logits + r * width;
  const double value = row_logsumexp<T, N>(width, row);
  if (threadIdx.x != 0) return;
  lse[r] = static_cast<float>(value);
  losses[r] = targets[r] < 0 ? 0.0 : value - static_cast<double>(to_float(row[targets[r]]));
}

template <class T, int N>
__global__ void __launch_bounds__(threads) part_kernel(std::int64_t width, std::int64_t first, const T* logits,
                                                       const std::int32_t* targets, double* part) {
  const std::int64_t r = blockIdx.x;
  const T* row = logits + r * width;
  const double value = row_logsumexp<T, N>(width, row);
  if (threadIdx.x != 0) return;
  const std::int64_t own = targets[r] - first;
  part[2 * r] = value;
  part[2 * r + 1] = own >= 0 && own < width ? static_cast<double>(to_float(row[own])) : 0.0;
}

__global__ void merge_kernel(std::int64_t parts, std::int64_t rows, const double* part,
                             const std::int32_t* targets, float* lse, double* losses) {
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (r >= rows) return;
  double top = part[2 * r], sum = 0, logit = 0;
  for (std::int64_t c = 1; c < parts; ++c) top = fmax(top, part[2 * (c * rows + r)]);
  for (std::int64_t c = 0; c < parts; ++c) {
    sum += exp(part[2 * (c * rows + r)] - top);
    logit += part[2 * (c * rows + r) + 1];
  }
  const double value = top + log(sum);
  lse[r] = static_cast<float>(value);
  losses[r] = targets[r] < 0 ? 0.0 : value - logit;
}

/// blockIdx.y takes `threads` * N columns of row blockIdx.x.
template <class T, int N>
__global__ void __launch_bounds__(threads)
    backward_kernel(std::int64_t width, std::int64_t first, T* logits, const std::int32_t* targets,
                    const float* lse, const float* scale) {
  const std::int64_t r = blockIdx.x,
                     begin = (static_cast<std::int64_t>(blockIdx.y) * threads + threadIdx.x) * N;
  if (begin >= width) return;
  const std::int32_t target = targets[r];
  T* at = logits + r * width + begin;
  float x[N] = {};
  if (target >= 0) {
    const float shift = lse[r], factor = *scale;
    const std::int64_t own = target - first - begin;
    load<N>(at, x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = factor * (__expf(x[j] - shift) - (own == j ? 1.0f : 0.0f));
  }
  store<N>(at, x);
}

/// run.operator()<T, N>(logits): N as wide as rows of logits allow.
template <class F>
void for_rows(const Tensor& logits, F&& run) {
  dispatch_compute(logits.dtype(), [&]<class T>() {
    T* x = device_data<T>(logits);
    constexpr int n = vector_width<T>;
    if (logits.dim(1) % n == 0 && aligned_to(16, x)) return run.template operator()<T, n>(x);
    run.template operator()<T, 1>(x);
  });
}

unsigned rows_of(const Tensor& logits) {
  return static_cast<unsigned>(logits.dim(0));
}

}  // namespace

void cross_entropy_forward(const Stream& stream, const Tensor& logits, const Tensor& targets, const Tensor& lse,
                           const Tensor& losses) {
  for_rows(logits, [&]<class T, int N>(const T* x) {
    launch(stream, {rows_of(logits), threads}, forward_kernel<T, N>, logits.dim(1), x,
           device_data<std::int32_t>(targets), device_data<float>(lse), device_data<double>(losses));
  });
}

void cross_entropy_part(const Stream& stream, const Tensor& logits, const Tensor& targets, std::int64_t first,
                        const Tensor& part) {
  for_rows(logits, [&]<class T, int N>(const T* x) {
    launch(stream, {rows_of(logits), threads}, part_kernel<T, N>, logits.dim(1), first, x,
           device_data<std::int32_t>(targets), device_data<double>(part));
  });
}

void cross_entropy_merge(const Stream& stream, const Tensor& parts, const Tensor& targets, const Tensor& lse,
                         const Tensor& losses) {
  const std::int64_t count = parts.dim(0), rows = lse.dim(0);
  HYSPARSE_CHECK(parts.shape() == (Shape{count, rows, 2}), "parts {}", parts.shape().str());
  launch(stream, {static_cast<unsigned>(ceil_div(rows, 256)), 256}, merge_kernel, count, rows,
         device_data<double>(parts), device_data<std::int32_t>(targets), device_data<float>(lse),
         device_data<double>(losses));
}

void cross_entropy_backward(const Stream& stream, const Tensor& logits, const Tensor& targets,
                            std::int64_t first, const Tensor& lse, const Tensor& scale) {
  for_rows(logits, [&]<class T, int N>(T* x) {
    const auto columns = static_cast<unsigned>(ceil_div(logits.dim(1), threads * N));
    launch(stream, {{rows_of(logits), columns}, threads}, backward_kernel<T, N>, logits.dim(1), first, x,
           device_data<std::int32_t>(targets), device_data<float>(lse), device_data<float>(scale));
  });
}

}  // namespace hysparse::cuda
