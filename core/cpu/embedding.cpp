#include "core/cpu/embedding.h"

#include <algorithm>

#include "core/cpu/elementwise.h"
#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

/// Columns a thread takes at least: two cache lines of f32.
constexpr std::int64_t column_grain = 32;

}  // namespace

void embedding_forward(const Stream& stream, const Tensor& ids, const Tensor& table, std::int64_t first,
                       const Tensor& out) {
  const std::int64_t width = table.dim(1), held = table.dim(0);
  dispatch_float(table.dtype(), [&]<class T>() {
    const std::int32_t* id = ids.data<std::int32_t>();
    const T* from = table.data<T>();
    T* to = out.data<T>();
    const std::int64_t grain = std::max<std::int64_t>(1, elementwise_grain / std::max<std::int64_t>(1, width));
    stream.pool->parallel_for(ids.numel(), grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const std::int64_t row = id[t] - first;
        if (row >= 0 && row < held) {
          std::copy_n(from + row * width, width, to + t * width);
        } else {
          std::fill_n(to + t * width, width, T(0));
        }
      }
    });
  });
}

void embedding_backward(const Stream& stream, const Tensor& ids, const Tensor& dout, std::int64_t first,
                        const Tensor& dtable) {
  const std::int64_t width = dtable.dim(1), held = dtable.dim(0), tokens = ids.numel();
  dispatch_float(dtable.dtype(), [&]<class T>() {
    const std::int32_t* id = ids.data<std::int32_t>();
    const T* from = dout.data<T>();
    T* to = dtable.data<T>();
    const std::int64_t grain = tokens * width < elementwise_grain ? width : column_grain;
    stream.pool->parallel_for(width, grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        const std::int64_t at = id[t] - first;
        if (at < 0 || at >= held) continue;
        const T* g = from + t * width;
        T* row = to + at * width;
        for (std::int64_t i = begin; i < end; ++i) row[i] += g[i];
      }
    });
  });
}

}  // namespace hysparse::cpu
