#include "attention/cuda/backward.cuh"
#include "attention/cuda/exact.cuh"
#include "attention/cuda/exact.h"

namespace hysparse::cuda {
namespace {

/// dq (+)= sum over keys of p (dout . v - delta) k * scale. A warp per row (token * H + head).
__global__ void exact_query_gradient_kernel(Problem p, const float* q, const float* k, const float* v,
                                            const float* dout, const RowStats* stats, float* dq, bool add) {
  const std::int64_t row = warp_in_grid();
  if (row >= static_cast<std::int64_t>(p.sequences) * p.query_len * p.num_heads) return;
  const std::int64_t token = row / p.num_heads;
  const int group = p.by_group.divide(static_cast<int>(row % p.num_heads));
  const int sequence = static_cast<int>(token / p.query_len), lane = static_cast<int>(threadIdx.x) % warp_size;
  const float *query = q + row * p.head_dim, *dvalue = dout + row * p.head_dim;
  const RowStats own = stats[row];
  float sums[exact_per_lane] = {};
  for_keys(p, token, group, [&](int key) {
    std::int64_t at = 0;
    float ds = 0.0f;
    if (key >= 0) {
      at = key_offset(p, sequence, group, key);
      const float probability = expf(chain(query, k + at, p.head_dim, p.scale) - own.lse);
      ds = probability * (chain(dvalue, v + at, p.head_dim, 1.0f) - own.delta);
    }
    for (int s = 0; s < warp_size; ++s) {
      const float weight = __shfl_sync(all_lanes, ds, s);
      const std::int64_t from = __shfl_sync(all_lanes, static_cast<long long>(at), s);
#pragma unroll
      for (int j = 0; j < exact_per_lane; ++j) {
        const int e = lane + j * warp_size;
        if (e < p.head_dim && weight != 0.0f) sums[j] = fmaf(weight, k[from + e], sums[j]);
      }
    }
  });
#pragma unroll
  for (int j = 0; j < exact_per_lane; ++j) {
    const int e = lane + j * warp_size;
    if (e >= p.head_dim) continue;
    float* to = dq + row * p.head_dim + e;
    *to = add ? *to + sums[j] * p.scale : sums[j] * p.scale;
  }
}

/// dk, dv (+)= sums over the rows that see the key, in order. A warp per key of a sequence and group.
__global__ void exact_key_gradient_kernel(Problem p, KeyWorkView work, const float* q, const float* k,
                                          const float* v, const float* dout, const RowStats* stats, float* dk,
                                          bool add_dk, float* dv, bool add_dv) {
  const std::int64_t index = warp_in_grid();
  if (index >= static_cast<std::int64_t>(p.sequences) * p.key_rows * p.num_kv_heads) return;
  const int group = static_cast<int>(index % p.num_kv_heads), lane = static_cast<int>(threadIdx.x) % warp_size;
  const int key = static_cast<int>(index / p.num_kv_heads % p.key_rows);
  const int sequence = static_cast<int>(index / p.num_kv_heads / p.key_rows);
  const std::int64_t at = index * p.head_dim;
  const int list = (sequence * p.num_kv_heads + group) * work.lists_per_slab + key / work.list_keys;
  const int list_start = work.tokens != nullptr ? work.token_start[list] : 0;
  const int tokens =
      work.tokens != nullptr ? work.token_start[list + 1] - list_start : min(p.query_len - key, p.window);
  const int rows = tokens * p.group_size();
  float dkey[exact_per_lane] = {}, dvalue[exact_per_lane] = {};
  for (int first = 0; first < rows; first += warp_size) {
    const int r = first + lane;
    std::int64_t from = 0;
    float probability = 0.0f, ds = 0.0f;
    bool behind = r >= rows;  // of another document, as are all tokens after it
    if (r < rows) {
      const int i = p.by_group.divide(r), head = group * p.group_size() + r - i * p.group_size();
      const int token = work.tokens != nullptr ? work.tokens[list_start + i] : key + i;
      behind = p.document(sequence, token) > key;
      if (token >= key && !behind) {
        const std::int64_t row =
            (static_cast<std::int64_t>(sequence) * p.query_len + token) * p.num_heads + head;
        from = row * p.head_dim;
        probability = expf(chain(q + from, k + at, p.head_dim, p.scale) - stats[row].lse);
        ds = probability * (chain(dout + from, v + at, p.head_dim, 1.0f) - stats[row].delta);
      }
    }
    if (__all_sync(all_lanes, behind)) break;
    for (int s = 0; s < warp_size; ++s) {
      const float weight = __shfl_sync(all_lanes, probability, s), dweight = __shfl_sync(all_lanes, ds, s);
      const std::int64_t row = __shfl_sync(all_lanes, static_cast<long long>(from), s);
#pragma unroll
      for (int j = 0; j < exact_per_lane; ++j) {
        const int e = lane + j * warp_size;
        if (e >= p.head_dim || weight == 0.0f) continue;
        dkey[j] = fmaf(dweight, q[row + e] * p.scale, dkey[j]);
        dvalue[j] = fmaf(weight, dout[row + e], dvalue[j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < exact_per_lane; ++j) {
    const int e = lane + j * warp_size;
    if (e >= p.head_dim) continue;
    dk[at + e] = add_dk ? dk[at + e] + dkey[j] : dkey[j];
    dv[at + e] = add_dv ? dv[at + e] + dvalue[j] : dvalue[j];
  }
}

}  // namespace

void exact_backward(const Stream& stream, const Problem& p, const Tensor& q, const Tensor& k, const Tensor& v,
                    const Tensor& dout, const RowStats* stats, const KeyWork& work,
                    const cpu::AttentionGradients& gradients) {
  launch(stream, warps(p.query_rows() * p.num_heads), exact_query_gradient_kernel, p, device_data<float>(q),
         device_data<float>(k), device_data<float>(v), device_data<float>(dout), stats,
         device_data<float>(gradients.q.buffer), gradients.q.add);
  launch(stream, warps(std::int64_t{p.sequences} * p.key_rows * p.num_kv_heads), exact_key_gradient_kernel, p,
         work.view, device_data<float>(q), device_data<float>(k), device_data<float>(v),
         device_data<float>(dout), stats, device_data<float>(gradients.k.buffer), gradients.k.add,
         device_data<float>(gradients.v.buffer), gradients.v.add);
}

}  // namespace hysparse::cuda
