// A warp has a token; its row of scores lies in shared memory.
#include "core/cuda/kernel.cuh"
#include "moe/cuda/router.h"

namespace hysparse::cuda {
namespace {

/// Warps of a block with `bytes` of shared memory each.
int token_warps(std::int64_t bytes) {
  const std::int64_t fit = std::min<std::int64_t>(48 << 10, properties().shared_memory_per_block) / bytes;
  HYSPARSE_CHECK(bytes <= properties().shared_memory_per_block, "{} bytes a token", bytes);
  return static_cast<int>(std::clamp<std::int64_t>(fit, 1, 8));
}
Launch per_token(std::int64_t tokens, std::int64_t bytes) {
  const int warps = token_warps(bytes);
  return {dim3(static_cast<unsigned>(ceil_div(tokens, warps))), dim3(warps * warp_size), warps * bytes};
}

struct Scoring {
  std::int64_t tokens;
  int experts, slots;
  bool softmax, normalize, chosen;
  float scale;
};
Scoring scoring_of(const MoeConfig& config, std::int64_t tokens, std::int64_t experts, bool chosen) {
  return {tokens,
          static_cast<int>(experts),
          static_cast<int>(config.top_k),
          config.scoring == RouterScoring::softmax,
          config.normalize_top_k,
          chosen,
          static_cast<float>(config.routed_scaling)};
}

struct Forward {
  const float *logits, *bias;
  float *scores, *probabilities, *weights;
  int* ids;
};

/// Unsigned numbers in the order of floats, from 2 on; NaN is 1, before all of them. 0 is left for none.
__device__ unsigned order_key(float x) {
  if (x != x) return 1;
  const unsigned bits = __float_as_uint(x + 0.0f);  // one zero
  return max(2u, bits >> 31 ? ~bits : bits | 0x80000000u);
}

/// The scores of a token to row; returns the lane's part of their sum.
__device__ float score(const Scoring& s, const float* logits, float* row, int lane) {
  float top = -INFINITY;
  if (s.softmax) {
    for (int e = lane; e < s.experts; e += warp_size) top = fmaxf(top, logits[e]);
    top = warp_max(top);
  }
  float sum = 0;
  for (int e = lane; e < s.experts; e += warp_size) {
    row[e] = s.softmax ? expf(logits[e] - top) : 1.0f / (1.0f + expf(-logits[e]));
    sum += row[e];
  }
  if (!s.softmax) return sum;
  const float total = warp_sum(sum);
  sum = 0;
  for (int e = lane; e < s.experts; e += warp_size) {
    row[e] = row[e] / total;
    sum += row[e];
  }
  return sum;
}

/// The experts with the largest score + bias, ties to the lower one.
__device__ void pick(const Scoring& s, const float* row, const float* bias, unsigned* keys, int* picked,
                     int lane) {
  unsigned best = 0;
  int best_expert = INT_MAX;
  const auto look = [&] {
    best = 0;
    best_expert = INT_MAX;
    for (int e = lane; e < s.experts; e += warp_size) {
      if (keys[e] > best) {
        best = keys[e];
        best_expert = e;
      }
    }
  };
  for (int e = lane; e < s.experts; e += warp_size)
    keys[e] = order_key(bias == nullptr ? row[e] : row[e] + bias[e]);
  look();
  for (int slot = 0; slot < s.slots; ++slot) {
    const unsigned most = __reduce_max_sync(all_lanes, best);
    const int e = __reduce_min_sync(all_lanes, best == most ? best_expert : INT_MAX);
    if (lane == 0) picked[slot] = e;
    if (e == best_expert) {
      keys[e] = 0;
      look();
    }
  }
}

__global__ void router_forward_kernel(const Scoring s, const Forward f) {
  extern __shared__ float shared[];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / warp_size) + warp;
  if (t >= s.tokens) return;
  float* row = shared + warp * (2 * s.experts + s.slots);
  unsigned* keys = reinterpret_cast<unsigned*>(row + s.experts);
  int* picked = reinterpret_cast<int*>(keys + s.experts);

  const float sum = warp_sum(score(s, f.logits + t * s.experts, row, lane));
  for (int e = lane; e < s.experts; e += warp_size) {
    f.scores[t * s.experts + e] = row[e];
    if (f.probabilities != nullptr) f.probabilities[t * s.experts + e] = row[e] / sum;
  }
  int* ids = f.ids + t * s.slots;
  if (s.chosen) {
    for (int i = lane; i < s.slots; i += warp_size) picked[i] = ids[i];
  } else {
    pick(s, row, f.bias, keys, picked, lane);
  }
  __syncwarp();
  float total = 0;
  for (int i = lane; i < s.slots; i += warp_size) total += row[picked[i]];
  total = warp_sum(total);
  for (int i = lane; i < s.slots; i += warp_size) {
    if (!s.chosen) ids[i] = picked[i];
    f.weights[t * s.slots + i] = (s.normalize ? row[picked[i]] / total : row[picked[i]]) * s.scale;
  }
}

template <class T>
struct Backward {
  const float *scores, *dweights, *dprobabilities, *direct;
  const int *ids, *kept;
  T* dlogits;
};

template <class T>
__global__ void router_backward_kernel(const Scoring s, const Backward<T> b) {
  extern __shared__ float shared[];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / warp_size) + warp;
  if (t >= s.tokens) return;
  float* ds = shared + warp * s.experts;
  const float* row = b.scores + t * s.experts;

  if (b.dprobabilities != nullptr) {
    const float* dp = b.dprobabilities + t * s.experts;
    float total = 0, inner = 0;
    for (int e = lane; e < s.experts; e += warp_size) {
      total += row[e];
      inner += dp[e] * row[e];
    }
    total = warp_sum(total);
    inner = warp_sum(inner) / total;
    for (int e = lane; e < s.experts; e += warp_size) ds[e] = (dp[e] - inner) / total;
  } else {
    for (int e = lane; e < s.experts; e += warp_size) ds[e] = 0;
  }
  __syncwarp();
  if (b.dweights != nullptr) {
    const int *ids = b.ids + t * s.slots, *kept = b.kept + t * s.slots;
    const float* dw = b.dweights + t * s.slots;
    float total = 0, inner = 0;
    for (int i = lane; i < s.slots; i += warp_size) {
      total += row[ids[i]];
      if (kept[i] >= 0) inner += dw[i] * row[ids[i]];
    }
    total = warp_sum(total);
    inner = warp_sum(inner) / total;
    for (int i = lane; i < s.slots; i += warp_size) {  // different experts
      const float g = kept[i] >= 0 ? dw[i] : 0.0f;
      ds[ids[i]] += s.scale * (s.normalize ? (g - inner) / total : g);
    }
    __syncwarp();
  }
  float inner = 0;
  if (s.softmax) {
    for (int e = lane; e < s.experts; e += warp_size) inner += ds[e] * row[e];
    inner = warp_sum(inner);
  }
  for (int e = lane; e < s.experts; e += warp_size) {
    float d = s.softmax ? row[e] * (ds[e] - inner) : ds[e] * row[e] * (1.0f - row[e]);
    if (b.direct != nullptr) d += b.direct[t * s.experts + e];
    b.dlogits[t * s.experts + e] = from_float<T>(d);
  }
}

}  // namespace

void router_forward(const Stream& stream, const cpu::RouterForward& args, const MoeConfig& config) {
  const std::int64_t tokens = args.logits.dim(0), experts = args.logits.dim(1);
  launch(stream, per_token(tokens, (2 * experts + config.top_k) * 4), router_forward_kernel,
         scoring_of(config, tokens, experts, args.chosen),
         Forward{device_data<float>(args.logits), device_data_or_null<float>(args.bias),
                 device_data<float>(args.scores), device_data_or_null<float>(args.probabilities),
                 device_data<float>(args.weights), device_data<int>(args.ids)});
}

void router_backward(const Stream& stream, const cpu::RouterBackward& args, const MoeConfig& config) {
  const std::int64_t tokens = args.scores.dim(0), experts = args.scores.dim(1);
  dispatch_compute(args.dlogits.dtype(), [&]<class T>() {
    launch(stream, per_token(tokens, experts * 4), router_backward_kernel<T>,
           scoring_of(config, tokens, experts, true),
           Backward<T>{device_data<float>(args.scores), device_data_or_null<float>(args.dweights),
                       device_data_or_null<float>(args.dprobabilities),
                       device_data_or_null<float>(args.dlogits_direct), device_data<int>(args.ids),
                       device_data<int>(args.kept_ids), device_data<T>(args.dlogits)});
  });
}

}  // namespace hysparse::cuda
