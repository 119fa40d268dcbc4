#include "moe/cpu/router.h"

#include <algorithm>
#include <vector>

#include "core/cpu/lanes.h"
#include "core/cpu/math.h"
#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

std::int64_t row_grain(std::int64_t experts) {
  return std::max<std::int64_t>(1, (1 << 12) / std::max<std::int64_t>(1, experts));
}

template <class T>
T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

template <class T>
void softmax(std::int64_t n, const T* x, T* y) {
  const T top = lane_max(n, x);
  for (std::int64_t i = 0; i < n; ++i) y[i] = exp(x[i] - top);
  const T total = lane_sum<T>(n, [=](std::int64_t i) { return y[i]; });
  for (std::int64_t i = 0; i < n; ++i) y[i] = y[i] / total;
}

/// The k experts with the largest score + bias, by falling value, ties to the lower expert. Always k distinct
/// ones, also where values are NaN.
template <class T>
void pick(std::int64_t experts, std::int64_t k, const T* scores, const T* bias, std::int32_t* ids, T* values) {
  for (std::int64_t e = 0; e < experts; ++e) {
    const T value = bias == nullptr ? scores[e] : scores[e] + bias[e];
    std::int64_t at = std::min(e, k);
    if (at == k && !(value > values[k - 1])) continue;
    if (at == k) --at;
    for (; at > 0 && value > values[at - 1]; --at) {
      values[at] = values[at - 1];
      ids[at] = ids[at - 1];
    }
    values[at] = value;
    ids[at] = static_cast<std::int32_t>(e);
  }
}

template <class T>
void weigh(const MoeConfig& config, const T* scores, const std::int32_t* ids, T* weights) {
  const std::int64_t k = config.top_k;
  T total = 0;
  for (std::int64_t i = 0; i < k; ++i) total += scores[ids[i]];
  const T scale = static_cast<T>(config.routed_scaling);
  for (std::int64_t i = 0; i < k; ++i) {
    weights[i] = (config.normalize_top_k ? scores[ids[i]] / total : scores[ids[i]]) * scale;
  }
}

/// ds [X] += the gradient by way of a token's weights.
template <class T>
void weights_backward(const MoeConfig& config, const T* scores, const std::int32_t* ids,
                      const std::int32_t* kept, const T* dweights, T* ds) {
  const std::int64_t k = config.top_k;
  const T scale = static_cast<T>(config.routed_scaling);
  T total = 0, inner = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    total += scores[ids[i]];
    inner += kept[i] < 0 ? T(0) : dweights[i] * scores[ids[i]];
  }
  inner /= total;
  for (std::int64_t i = 0; i < k; ++i) {
    const T g = kept[i] < 0 ? T(0) : dweights[i];
    ds[ids[i]] += scale * (config.normalize_top_k ? (g - inner) / total : g);
  }
}

}  // namespace

void router_forward(const Stream& stream, const RouterForward& args, const MoeConfig& config) {
  const std::int64_t tokens = args.logits.dim(0), experts = args.logits.dim(1), k = config.top_k;
  dispatch_float(args.logits.dtype(), [&]<class T>() {
    const T *logits = args.logits.data<T>(), *bias = data_or_null<T>(args.bias);
    T *scores = args.scores.data<T>(), *probabilities = data_or_null<T>(args.probabilities);
    T* weights = args.weights.data<T>();
    std::int32_t* ids = args.ids.data<std::int32_t>();
    stream.pool->parallel_for(tokens, row_grain(experts), [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> values(static_cast<std::size_t>(k));
      for (std::int64_t t = begin; t < end; ++t) {
        const T* l = logits + t * experts;
        T* s = scores + t * experts;
        if (config.scoring == RouterScoring::softmax) {
          softmax(experts, l, s);
        } else {
          for (std::int64_t e = 0; e < experts; ++e) s[e] = sigmoid(l[e]);
        }
        if (probabilities != nullptr) {
          const T total = lane_sum<T>(experts, [=](std::int64_t e) { return s[e]; });
          for (std::int64_t e = 0; e < experts; ++e) probabilities[t * experts + e] = s[e] / total;
        }
        if (!args.chosen) pick(experts, k, s, bias, ids + t * k, values.data());
        weigh(config, s, ids + t * k, weights + t * k);
      }
    });
  });
}

void router_backward(const Stream& stream, const RouterBackward& args, const MoeConfig& config) {
  const std::int64_t tokens = args.scores.dim(0), experts = args.scores.dim(1), k = config.top_k;
  dispatch_float(args.scores.dtype(), [&]<class T>() {
    const T* scores = args.scores.data<T>();
    const T *dweights = data_or_null<T>(args.dweights), *dprobabilities = data_or_null<T>(args.dprobabilities);
    const T* direct = data_or_null<T>(args.dlogits_direct);
    const std::int32_t *ids = args.ids.data<std::int32_t>(), *kept = args.kept_ids.data<std::int32_t>();
    T* dlogits = args.dlogits.data<T>();
    stream.pool->parallel_for(tokens, row_grain(experts), [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> row(static_cast<std::size_t>(experts));
      T* ds = row.data();
      for (std::int64_t t = begin; t < end; ++t) {
        const T* s = scores + t * experts;
        std::fill(row.begin(), row.end(), T(0));
        if (dprobabilities != nullptr) {
          const T* dp = dprobabilities + t * experts;
          const T total = lane_sum<T>(experts, [=](std::int64_t e) { return s[e]; });
          const T inner = lane_sum<T>(experts, [=](std::int64_t e) { return dp[e] * s[e]; }) / total;
          for (std::int64_t e = 0; e < experts; ++e) ds[e] = (dp[e] - inner) / total;
        }
        if (dweights != nullptr) weights_backward(config, s, ids + t * k, kept + t * k, dweights + t * k, ds);
        T* dl = dlogits + t * experts;
        if (config.scoring == RouterScoring::softmax) {
          const T inner = lane_sum<T>(experts, [=](std::int64_t e) { return ds[e] * s[e]; });
          for (std::int64_t e = 0; e < experts; ++e) dl[e] = s[e] * (ds[e] - inner);
        } else {
          for (std::int64_t e = 0; e < experts; ++e) dl[e] = ds[e] * s[e] * (T(1) - s[e]);
        }
        if (direct != nullptr) {
          for (std::int64_t e = 0; e < experts; ++e) dl[e] += direct[t * experts + e];
        }
      }
    });
  });
}

}  // namespace hysparse::cpu
