#include "optim/cuda/adamw.h"
#include "optim/cuda/chunks.cuh"

namespace hysparse::cuda {
namespace {

constexpr int threads = 256;
constexpr std::int64_t per_chunk = 4096;

struct Factors {
  float decay, beta1, rest1, beta2, rest2, eps, step_size, inverse_root, scale;
};

struct State {
  float* value;
  const float* grad;
  float *exp_avg, *exp_avg_sq;
  bf16* rounded;
};

template <int N>
__device__ __forceinline__ void update(const Factors& f, float decay, const State& s, std::int64_t at) {
  float p[N], g[N], m[N], v[N];
  load<N>(s.value + at, p);
  load<N>(s.grad + at, g);
  load<N>(s.exp_avg + at, m);
  load<N>(s.exp_avg_sq + at, v);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float scaled = f.scale * g[j];
    m[j] = f.beta1 * m[j] + f.rest1 * scaled;
    v[j] = f.beta2 * v[j] + f.rest2 * (scaled * scaled);
    p[j] = p[j] * decay - f.step_size * m[j] / (sqrtf(v[j]) * f.inverse_root + f.eps);
  }
  store<N>(s.value + at, p);
  store<N>(s.exp_avg + at, m);
  store<N>(s.exp_avg_sq + at, v);
  if (s.rounded != nullptr) store<N>(s.rounded + at, p);
}

__global__ void __launch_bounds__(threads) adamw_kernel(Factors f, RangeTable table, State s, bool aligned) {
  constexpr int n = 4;
  for (std::int64_t number = blockIdx.x; number < table.chunks; number += gridDim.x) {
    const Chunk chunk = chunk_at(table, number, per_chunk);
    const float decay = chunk.flag ? f.decay : 1.0f;
    std::int64_t rest = chunk.begin;
    if (aligned && chunk.begin % n == 0) {
      rest = chunk.end / n * n;
      for (std::int64_t at = chunk.begin + threadIdx.x * n; at < rest; at += threads * n)
        update<n>(f, decay, s, at);
    }
    for (std::int64_t at = rest + threadIdx.x; at < chunk.end; at += threads) update<1>(f, decay, s, at);
  }
}

}  // namespace

void adamw_update(const Stream& stream, const AdamWFactors& factors, std::span<const UpdateRange> ranges,
                  const Tensor& value, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                  const Tensor& rounded) {
  const auto single = [](double x) { return static_cast<float>(x); };
  const Factors f{single(factors.decay),         single(factors.beta1),
                  single(1.0 - factors.beta1),   single(factors.beta2),
                  single(1.0 - factors.beta2),   single(factors.eps),
                  single(factors.step_size),     single(1.0 / factors.root_correction),
                  single(factors.gradient_scale)};
  const State s{device_data<float>(value), device_data<float>(grad), device_data<float>(exp_avg),
                device_data<float>(exp_avg_sq), device_data_or_null<bf16>(rounded)};
  const bool aligned = aligned_to(16, s.value, s.grad, s.exp_avg, s.exp_avg_sq) && aligned_to(8, s.rounded);
  RangeTable table;
  const Tensor rows = range_rows(ranges, per_chunk, value.device(), table,
                                 [](const UpdateRange& r) { return std::int64_t{r.weight_decay}; });
  launch(stream, {grid_for(table.chunks, 1), threads}, adamw_kernel, f, table, s, aligned);
}

}  // namespace hysparse::cuda
