#include <algorithm>
#include <cmath>
#include <vector>

#include "core/cpu/cross_entropy.h"
#include "core/cpu/lanes.h"
#include "core/cpu/math.h"
#include "core/thread_pool.h"
#include "moe/cpu/router.h"

namespace hysparse::cpu {
namespace {

std::int64_t row_grain(std::int64_t experts) {
  return std::max<std::int64_t>(1, (1 << 12) / std::max<std::int64_t>(1, experts));
}

/// Rows of sequence s among tokens [first_token, first_token + rows); begin >= end where it has none.
struct SequenceRows {
  std::int64_t begin, end;
  SequenceRows(std::int64_t s, std::int64_t seq_len, std::int64_t first_token, std::int64_t rows)
      : begin(std::max(s * seq_len - first_token, std::int64_t{0})),
        end(std::min((s + 1) * seq_len - first_token, rows)) {}
};

}  // namespace

void count_by_sequence(const Stream& stream, const Tensor& ids, std::int64_t first_token, std::int64_t seq_len,
                       const Tensor& counts) {
  const std::int64_t sequences = counts.dim(0), experts = counts.dim(1), rows = ids.dim(0), k = ids.dim(1);
  const std::int32_t* id = ids.data<std::int32_t>();
  stream.pool->parallel_tasks(sequences, [&](std::int64_t sequence) {
    double* count = counts.data<double>() + sequence * experts;
    std::fill_n(count, experts, 0.0);
    const SequenceRows here(sequence, seq_len, first_token, rows);
    for (std::int64_t a = here.begin * k; a < here.end * k; ++a) count[id[a]] += 1;
  });
}

void load_balance_forward(const Stream& stream, const Tensor& shares, std::int64_t slots,
                          const Tensor& probabilities, std::int64_t first_token, std::int64_t seq_len,
                          const Tensor& losses) {
  const std::int64_t sequences = shares.dim(0), experts = shares.dim(1), rows = probabilities.dim(0);
  const auto length = static_cast<double>(seq_len), assignments = static_cast<double>(seq_len * slots);
  dispatch_float(probabilities.dtype(), [&]<class T>() {
    const T* p = probabilities.data<T>();
    stream.pool->parallel_tasks(sequences, [&](std::int64_t sequence) {
      double* f = shares.data<double>() + sequence * experts;
      std::vector<double> sums(static_cast<std::size_t>(experts), 0.0);
      const SequenceRows here(sequence, seq_len, first_token, rows);
      for (std::int64_t t = here.begin; t < here.end; ++t) {
        for (std::int64_t e = 0; e < experts; ++e) {
          sums[static_cast<std::size_t>(e)] += static_cast<double>(p[t * experts + e]);
        }
      }
      double loss = 0;
      for (std::int64_t e = 0; e < experts; ++e) {
        f[e] /= assignments;
        loss += f[e] * sums[static_cast<std::size_t>(e)] / length;
      }
      losses.data<double>()[sequence] = static_cast<double>(experts) * loss;
    });
  });
}

void load_balance_backward(const Stream& stream, const Tensor& shares, std::int64_t first_token,
                           std::int64_t seq_len, const Tensor& scale, const Tensor& dprobabilities, bool add) {
  const std::int64_t experts = shares.dim(1), tokens = dprobabilities.dim(0);
  dispatch_float(dprobabilities.dtype(), [&]<class T>() {
    const double factor =
        static_cast<double>(*scale.data<T>()) * static_cast<double>(experts) / static_cast<double>(seq_len);
    T* dp = dprobabilities.data<T>();
    stream.pool->parallel_for(tokens, row_grain(experts), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const double* f = shares.data<double>() + (first_token + t) / seq_len * experts;
        T* row = dp + t * experts;
        for (std::int64_t e = 0; e < experts; ++e)
          row[e] = (add ? row[e] : T(0)) + static_cast<T>(factor * f[e]);
      }
    });
  });
}

void z_loss_forward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& losses) {
  const std::int64_t tokens = logits.dim(0), experts = logits.dim(1);
  dispatch_float(logits.dtype(), [&]<class T>() {
    const T* x = logits.data<T>();
    stream.pool->parallel_for(tokens, row_grain(experts), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const T top = lane_max(experts, x + t * experts);
        const double value =
            static_cast<double>(top) + std::log(sum_of_exponentials(experts, x + t * experts, top));
        lse.data<T>()[t] = static_cast<T>(value);
        losses.data<double>()[t] = value * value;
      }
    });
  });
}

void z_loss_backward(const Stream& stream, const Tensor& logits, const Tensor& lse, const Tensor& scale,
                     const Tensor& dlogits, bool add) {
  const std::int64_t tokens = logits.dim(0), experts = logits.dim(1);
  dispatch_float(logits.dtype(), [&]<class T>() {
    const T *x = logits.data<T>(), *l = lse.data<T>();
    T* d = dlogits.data<T>();
    const T twice = 2 * *scale.data<T>();
    stream.pool->parallel_for(tokens, row_grain(experts), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const T factor = twice * l[t];
        for (std::int64_t i = t * experts; i < (t + 1) * experts; ++i) {
          d[i] = (add ? d[i] : T(0)) + factor * exp(x[i] - l[t]);
        }
      }
    });
  });
}

}  // namespace hysparse::cpu
