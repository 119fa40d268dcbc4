// Sums over tokens are in f64, first over strided tokens of a part, then over parts, in a fixed order.
#include "core/cuda/kernel.cuh"
#include "moe/cuda/router.h"

namespace hysparse::cuda {
namespace {

constexpr int parts = 16, token_lanes = 8, block = 256;

struct Tokens {
  std::int64_t first, rows, seq_len;
  int experts;
};

/// sums f64 [S, parts, X] of probabilities. Blocks (S, parts, X / 32) of 32 experts x token_lanes.
__global__ void __launch_bounds__(warp_size* token_lanes)
    sum_probabilities(const Tokens k, const float* probabilities, double* sums) {
  __shared__ double lanes[token_lanes][warp_size];
  const int e = static_cast<int>(blockIdx.z * warp_size + threadIdx.x), part = static_cast<int>(blockIdx.y);
  const std::int64_t sequence = blockIdx.x;
  const std::int64_t begin = max(sequence * k.seq_len - k.first, std::int64_t{0});
  const std::int64_t end = min((sequence + 1) * k.seq_len - k.first, k.rows);
  const std::int64_t each = end > begin ? (end - begin + parts - 1) / parts : 0;
  double sum = 0;
  if (e < k.experts) {
    const std::int64_t part_end = min(end, begin + (part + 1) * each);
#pragma unroll 4
    for (std::int64_t t = begin + part * each + threadIdx.y; t < part_end; t += token_lanes)
      sum += static_cast<double>(probabilities[t * k.experts + e]);
  }
  lanes[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || e >= k.experts) return;
  sum = 0;
  for (int i = 0; i < token_lanes; ++i) sum += lanes[i][threadIdx.x];
  sums[(sequence * parts + part) * k.experts + e] = sum;
}

/// A block has a sequence.
__global__ void load_balance_kernel(const Tokens k, double assignments, const double* sums, double* shares,
                                    double* losses) {
  __shared__ double scratch[warp_size];
  const std::int64_t sequence = blockIdx.x;
  double loss = 0;
  for (int e = threadIdx.x; e < k.experts; e += blockDim.x) {
    double* f = shares + sequence * k.experts + e;
    *f /= assignments;
    double sum = 0;
    for (int part = 0; part < parts; ++part) sum += sums[(sequence * parts + part) * k.experts + e];
    loss += *f * sum / static_cast<double>(k.seq_len);
  }
  loss = block_sum(loss, scratch);
  if (threadIdx.x == 0) losses[sequence] = k.experts * loss;
}

__global__ void load_balance_backward_kernel(const Tokens k, const double* shares, const float* scale,
                                             float* dprobabilities, bool add) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= k.rows * k.experts) return;
  const std::int64_t t = i / k.experts, e = i % k.experts;
  const double factor = static_cast<double>(*scale) * k.experts / static_cast<double>(k.seq_len);
  const auto d = static_cast<float>(factor * shares[(k.first + t) / k.seq_len * k.experts + e]);
  dprobabilities[i] = add ? dprobabilities[i] + d : d;
}

/// A warp has a token.
__global__ void z_loss_kernel(const float* logits, std::int64_t tokens, int experts, float* lse,
                              double* losses) {
  const int lane = threadIdx.x % warp_size;
  const std::int64_t t =
      static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / warp_size) + threadIdx.x / warp_size;
  if (t >= tokens) return;
  const float* row = logits + t * experts;
  float top = -INFINITY, sum = 0;
  for (int e = lane; e < experts; e += warp_size) top = fmaxf(top, row[e]);
  top = warp_max(top);
  for (int e = lane; e < experts; e += warp_size) sum += expf(row[e] - top);
  const double value = static_cast<double>(top) + log(static_cast<double>(warp_sum(sum)));
  if (lane > 0) return;
  lse[t] = static_cast<float>(value);
  losses[t] = value * value;
}

__global__ void z_loss_backward_kernel(const float* logits, const float* lse, const float* scale,
                                       std::int64_t n, int experts, float* dlogits, bool add) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float l = lse[i / experts], d = 2 * *scale * l * expf(logits[i] - l);
  dlogits[i] = add ? dlogits[i] + d : d;
}

unsigned blocks_for(std::int64_t n) {
  return static_cast<unsigned>(ceil_div(n, block));
}

}  // namespace

void load_balance_forward(const Stream& stream, const Tensor& shares, std::int64_t slots,
                          const Tensor& probabilities, std::int64_t first_token, std::int64_t seq_len,
                          const Tensor& losses) {
  const std::int64_t sequences = shares.dim(0), experts = shares.dim(1);
  const Tokens tokens{first_token, probabilities.dim(0), seq_len, static_cast<int>(experts)};
  const Tensor sums = Tensor::empty({sequences, parts, experts}, DType::f64, shares.device());
  launch(stream,
         {dim3(static_cast<unsigned>(sequences), parts, static_cast<unsigned>(ceil_div(experts, warp_size))),
          dim3(warp_size, token_lanes)},
         sum_probabilities, tokens, device_data<float>(probabilities), device_data<double>(sums));
  launch(stream, {dim3(static_cast<unsigned>(sequences)), dim3(block)}, load_balance_kernel, tokens,
         static_cast<double>(seq_len * slots), device_data<double>(sums), device_data<double>(shares),
         device_data<double>(losses));
}

void load_balance_backward(const Stream& stream, const Tensor& shares, std::int64_t first_token,
                           std::int64_t seq_len, const Tensor& scale, const Tensor& dprobabilities, bool add) {
  const Tokens tokens{first_token, dprobabilities.dim(0), seq_len, static_cast<int>(shares.dim(1))};
  launch(stream, {dim3(blocks_for(dprobabilities.numel())), dim3(block)}, load_balance_backward_kernel, tokens,
         device_data<double>(shares), device_data<float>(scale), device_data<float>(dprobabilities), add);
}

void z_loss_forward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& losses) {
  launch(stream, {dim3(blocks_for(logits.dim(0) * warp_size)), dim3(block)}, z_loss_kernel,
         device_data<float>(logits), logits.dim(0), static_cast<int>(logits.dim(1)), device_data<float>(lse),
         device_data<double>(losses));
}

void z_loss_backward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& scale,
                     const Tensor& dlogits, bool add) {
  launch(stream, {dim3(blocks_for(logits.numel())), dim3(block)}, z_loss_backward_kernel,
         device_data<float>(logits), device_data<float>(lse), device_data<float>(scale), logits.numel(),
         static_cast<int>(logits.dim(1)), device_data<float>(dlogits), add);
}

}  // namespace hysparse::cuda
