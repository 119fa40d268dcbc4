#include "core/cuda/kernel.cuh"
#include "core/cuda/scalar.h"

namespace hysparse::cuda {
namespace {

template <class T>
__global__ void fill_kernel(std::int64_t n, T value, T* out) {
  for_each_vector<1>(n, [=]<int>(std::int64_t i) { out[i] = value; });
}

__global__ void sum_kernel(std::int64_t n, const double* terms, double* total) {
  __shared__ double scratch[warp_size];
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += terms[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

void fill(const Stream& stream, const Tensor& out, double value) {
  const auto run = [&]<class T>(T rounded) {
    constexpr int threads = 256;
    launch(stream, {grid_for(out.numel(), threads), threads}, fill_kernel<T>, out.numel(), rounded,
           device_data<T>(out));
  };
  if (out.dtype() == DType::f64) return run(value);
  run(static_cast<float>(value));
}

void sum_terms(const Stream& stream, const Tensor& terms, const Tensor& total) {
  launch(stream, {1, 1024}, sum_kernel, terms.numel(), device_data<double>(terms), device_data<double>(total));
}

}  // namespace hysparse::cuda
