#include "core/cpu/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/cpu/lanes.h"
#include "core/cpu/math.h"
#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

std::int64_t row_grain(std::int64_t width) {
  return std::max<std::int64_t>(1, (1 << 12) / std::max<std::int64_t>(1, width));
}

template <class T>
double exponential_sum(std::int64_t n, const T* x, T shift) {
  constexpr std::int64_t run = 1024;
  double sum = 0;
  for (std::int64_t begin = 0; begin < n; begin += run) {
    const T* part = x + begin;
    sum += static_cast<double>(
        lane_sum<T>(std::min(run, n - begin), [=](std::int64_t i) { return exp(part[i] - shift); }));
  }
  return sum;
}

template <class T>
double row_logsumexp(std::int64_t n, const T* row) {
  const T top = lane_max(n, row);
  return static_cast<double>(top) + std::log(sum_of_exponentials(n, row, top));
}

}  // namespace

double sum_of_exponentials(std::int64_t n, const float* x, float shift) {
  return exponential_sum(n, x, shift);
}
double sum_of_exponentials(std::int64_t n, const double* x, double shift) {
  return exponential_sum(n, x, shift);
}

void cross_entropy_forward(const Stream& stream, const Tensor& logits, const Tensor& targets, const Tensor& lse,
                           const Tensor& losses) {
  const std::int64_t rows = logits.dim(0), width = logits.dim(1);
  dispatch_float(logits.dtype(), [&]<class T>() {
    const T* x = logits.data<T>();
    const std::int32_t* target = targets.data<std::int32_t>();
    T* l = lse.data<T>();
    double* loss = losses.data<double>();
    stream.pool->parallel_for(rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* row = x + r * width;
        const double value = row_logsumexp(width, row);
        l[r] = static_cast<T>(value);
        loss[r] = target[r] < 0 ? 0.0 : value - static_cast<double>(row[target[r]]);
      }
    });
  });
}

void cross_entropy_part(const Stream& stream, const Tensor& logits, const Tensor& targets, std::int64_t first,
                        const Tensor& part) {
  const std::int64_t rows = logits.dim(0), width = logits.dim(1);
  dispatch_float(logits.dtype(), [&]<class T>() {
    const T* x = logits.data<T>();
    const std::int32_t* target = targets.data<std::int32_t>();
    double* p = part.data<double>();
    stream.pool->parallel_for(rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* row = x + r * width;
        const std::int64_t own = target[r] - first;
        p[2 * r] = row_logsumexp(width, row);
        p[2 * r + 1] = own >= 0 && own < width ? static_cast<double>(row[own]) : 0.0;
      }
    });
  });
}

void cross_entropy_merge(const Stream& stream, const Tensor& parts, const Tensor& targets, const Tensor& lse,
                         const Tensor& losses) {
  const std::int64_t count = parts.dim(0), rows = lse.dim(0);
  HYSPARSE_CHECK(parts.shape() == (Shape{count, rows, 2}), "parts {}", parts.shape().str());
  dispatch_float(lse.dtype(), [&]<class T>() {
    const double* p = parts.data<double>();
    const std::int32_t* target = targets.data<std::int32_t>();
    T* l = lse.data<T>();
    double* loss = losses.data<double>();
    stream.pool->parallel_for(rows, row_grain(count), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const auto at = [=](std::int64_t c) { return p + 2 * (c * rows + r); };
        double top = at(0)[0], sum = 0, logit = 0;
        for (std::int64_t c = 1; c < count; ++c) top = std::max(top, at(c)[0]);
        for (std::int64_t c = 0; c < count; ++c) {
          sum += std::exp(at(c)[0] - top);
          logit += at(c)[1];
        }
        const double value = top + std::log(sum);
        l[r] = static_cast<T>(value);
        loss[r] = target[r] < 0 ? 0.0 : value - logit;
      }
    });
  });
}

void cross_entropy_backward(const Stream& stream, const Tensor& logits, const Tensor& targets,
                            std::int64_t first, const Tensor& lse, const Tensor& scale) {
  const std::int64_t rows = logits.dim(0), width = logits.dim(1);
  dispatch_float(logits.dtype(), [&]<class T>() {
    T* x = logits.data<T>();
    const std::int32_t* target = targets.data<std::int32_t>();
    const T* l = lse.data<T>();
    const T factor = *scale.data<T>();
    stream.pool->parallel_for(rows, row_grain(width), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        T* row = x + r * width;
        if (target[r] < 0) {
          std::fill_n(row, width, T(0));
          continue;
        }
        const T shift = l[r];
        for (std::int64_t i = 0; i < width; ++i) row[i] = factor * exp(row[i] - shift);
        const std::int64_t own = target[r] - first;
        if (own >= 0 && own < width) row[own] -= factor;
      }
    });
  });
}

}  // namespace hysparse::cpu
