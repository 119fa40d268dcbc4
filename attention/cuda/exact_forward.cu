#include "attention/cuda/exact.cuh"
#include "attention/cuda/exact.h"

namespace hysparse::cuda {
namespace {

/// A warp per row (token * H + head).
__global__ void exact_forward_kernel(Problem p, const float* q, const float* k, const float* v,
                                     ParameterView sinks, float* out, float* lse) {
  const std::int64_t row = warp_in_grid();
  if (row >= static_cast<std::int64_t>(p.sequences) * p.query_len * p.num_heads) return;
  const std::int64_t token = row / p.num_heads;
  const int head = static_cast<int>(row % p.num_heads), group = p.by_group.divide(head);
  const int sequence = static_cast<int>(token / p.query_len), lane = static_cast<int>(threadIdx.x) % warp_size;
  const float* query = q + row * p.head_dim;
  float maximum = sinks.data != nullptr ? sinks[head] : -INFINITY;
  float sum = maximum == -INFINITY ? 0.0f : 1.0f;
  float values[exact_per_lane] = {};
  for_keys(p, token, group, [&](int key) {
    const std::int64_t at = key < 0 ? 0 : key_offset(p, sequence, group, key);
    const float logit = key < 0 ? -INFINITY : chain(query, k + at, p.head_dim, p.scale);
    const float now = fmaxf(maximum, warp_max(logit)), shift = now == -INFINITY ? 0.0f : now;
    const float factor = expf(maximum - shift), own = expf(logit - shift);
    sum = sum * factor + warp_sum(own);
    maximum = now;
#pragma unroll
    for (int j = 0; j < exact_per_lane; ++j) values[j] *= factor;
    for (int s = 0; s < warp_size; ++s) {
      const float weight = __shfl_sync(all_lanes, own, s);
      const std::int64_t from = __shfl_sync(all_lanes, static_cast<long long>(at), s);
#pragma unroll
      for (int j = 0; j < exact_per_lane; ++j) {
        const int e = lane + j * warp_size;
        if (e < p.head_dim && weight != 0.0f) values[j] = fmaf(weight, v[from + e], values[j]);
      }
    }
  });
  const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
  for (int j = 0; j < exact_per_lane; ++j) {
    const int e = lane + j * warp_size;
    if (e < p.head_dim) out[row * p.head_dim + e] = values[j] * inverse;
  }
  if (lane == 0) lse[row] = sum == 0.0f ? -INFINITY : maximum + logf(sum);
}

/// A warp per score.
__global__ void exact_scores_kernel(Problem p, const float* q, const float* k, const float* lse, int block_size,
                                    int columns, float* scores) {
  const std::int64_t index = warp_in_grid();
  if (index >= static_cast<std::int64_t>(p.sequences) * p.query_len * p.num_kv_heads * columns) return;
  const int block = static_cast<int>(index % columns), lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t list = index / columns, token = list / p.num_kv_heads;
  const int group = static_cast<int>(list % p.num_kv_heads), sequence = static_cast<int>(token / p.query_len);
  const int position = p.start + static_cast<int>(token % p.query_len);
  const int document = p.documents != nullptr ? p.documents[token] : 0;
  const int begin = max(block * block_size, document), end = min((block + 1) * block_size, position + 1);
  float score = -INFINITY;
  for (int head = group * p.group_size(); head < (group + 1) * p.group_size(); ++head) {
    const std::int64_t row = token * p.num_heads + head;
    float most = -INFINITY;
    for (int key = begin + lane; key < end; key += warp_size) {
      most = fmaxf(most,
                   chain(q + row * p.head_dim, k + key_offset(p, sequence, group, key), p.head_dim, p.scale));
    }
    score = fmaxf(score, warp_max(most) - lse[row]);
  }
  if (lane == 0) scores[index] = score;
}

}  // namespace

void exact_forward(const Stream& stream, const Problem& p, const Tensor& q, const Tensor& k, const Tensor& v,
                   const Tensor& sinks, const Tensor& out, const Tensor& lse) {
  launch(stream, warps(p.query_rows() * p.num_heads), exact_forward_kernel, p, device_data<float>(q),
         device_data<float>(k), device_data<float>(v), ParameterView::of(sinks), device_data<float>(out),
         device_data<float>(lse));
}

void exact_scores(const Stream& stream, const Problem& p, const Tensor& q, const Tensor& k, const Tensor& lse,
                  std::int64_t block_size, const Tensor& scores) {
  launch(stream, warps(scores.numel()), exact_scores_kernel, p, device_data<float>(q), device_data<float>(k),
         device_data<float>(lse), static_cast<int>(block_size), static_cast<int>(scores.dim(2)),
         device_data<float>(scores));
}

}  // namespace hysparse::cuda
