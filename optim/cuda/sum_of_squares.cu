#include "core/cuda/scalar.h"
#include "optim/cuda/chunks.cuh"
#include "optim/cuda/sum_of_squares.h"

namespace hysparse::cuda {
namespace {

constexpr int threads = 256;
constexpr std::int64_t per_chunk = 16384;

/// sums[c] = the sum over chunk c, one block each.
__global__ void __launch_bounds__(threads)
    chunk_kernel(RangeTable table, const float* x, bool aligned, double* sums) {
  __shared__ double scratch[warp_size];
  constexpr int n = 4;
  const Chunk chunk = chunk_at(table, blockIdx.x, per_chunk);
  double sum = 0;
  std::int64_t rest = chunk.begin;
  if (aligned && chunk.begin % n == 0) {
    rest = chunk.end / n * n;
    for (std::int64_t at = chunk.begin + threadIdx.x * n; at < rest; at += threads * n) {
      float v[n];
      load<n>(x + at, v);
#pragma unroll
      for (int j = 0; j < n; ++j) sum += static_cast<double>(v[j]) * static_cast<double>(v[j]);
    }
  }
  for (std::int64_t at = rest + threadIdx.x; at < chunk.end; at += threads)
    sum += static_cast<double>(x[at]) * static_cast<double>(x[at]);
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

void sum_of_squares(const Stream& stream, const Tensor& x, std::span<const cpu::Range> ranges,
                    const Tensor& sum) {
  RangeTable table;
  const Tensor rows =
      range_rows(ranges, per_chunk, x.device(), table, [](const cpu::Range&) { return std::int64_t{0}; });
  const Tensor sums = Tensor::empty({table.chunks}, DType::f64, x.device());
  const float* from = device_data<float>(x);
  launch(stream, {static_cast<unsigned>(table.chunks), threads}, chunk_kernel, table, from,
         aligned_to(16, from), device_data<double>(sums));
  sum_terms(stream, sums, sum);
}

}  // namespace hysparse::cuda
