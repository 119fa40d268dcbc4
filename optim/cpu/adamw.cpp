#include "optim/cpu/adamw.h"

#include <algorithm>
#include <cmath>

#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

constexpr std::int64_t grain = 1 << 13;  // elements: some 10 us of work

template <class T>
void update(const AdamWFactors& f, bool decays, std::int64_t n, T* __restrict p, const T* __restrict grad,
            T* __restrict m, T* __restrict v) {
  const T decay = decays ? static_cast<T>(f.decay) : T(1);
  const T beta1 = static_cast<T>(f.beta1), rest1 = static_cast<T>(1.0 - f.beta1);
  const T beta2 = static_cast<T>(f.beta2), rest2 = static_cast<T>(1.0 - f.beta2);
  const T eps = static_cast<T>(f.eps), step_size = static_cast<T>(f.step_size);
  const T inverse_root = static_cast<T>(1.0 / f.root_correction), scale = static_cast<T>(f.gradient_scale);
  for (std::int64_t i = 0; i < n; ++i) {
    const T g = scale * grad[i];
    m[i] = beta1 * m[i] + rest1 * g;
    v[i] = beta2 * v[i] + rest2 * (g * g);
    p[i] = p[i] * decay - step_size * m[i] / (std::sqrt(v[i]) * inverse_root + eps);
  }
}

}  // namespace

void adamw_update(const Stream& stream, const AdamWFactors& factors, std::span<const UpdateRange> ranges,
                  const Tensor& value, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                  const Tensor& rounded) {
  dispatch_float(value.dtype(), [&]<class T>() {
    T* p = value.data<T>();
    const T* g = grad.data<T>();
    T *m = exp_avg.data<T>(), *v = exp_avg_sq.data<T>();
    BFloat16* r = rounded.defined() ? rounded.data<BFloat16>() : nullptr;
    stream.pool->parallel_for(value.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
      for (const UpdateRange& range : ranges) {
        const std::int64_t from = std::max(begin, range.begin), to = std::min(end, range.end);
        if (from >= to) continue;
        update<T>(factors, range.weight_decay, to - from, p + from, g + from, m + from, v + from);
        if (r == nullptr) continue;
        for (std::int64_t i = from; i < to; ++i) r[i] = BFloat16(static_cast<float>(p[i]));
      }
    });
  });
}

}  // namespace hysparse::cpu
