#include "moe/cpu/dispatch.h"

#include <algorithm>

#include "core/cpu/elementwise.h"
#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

std::int64_t row_grain(std::int64_t width) {
  return std::max<std::int64_t>(1, elementwise_grain / 2 / std::max<std::int64_t>(1, width));
}

/// The sum of a token's rows to out; all slots at once, so that out is written once.
template <class T>
void combine_token(std::int64_t width, const T* rows, std::int64_t stride, const std::int32_t* positions,
                   std::int64_t slots, T* out, bool add) {
  for (std::int64_t slot = 0; slot < slots; ++slot) {
    if (positions[slot] < 0) continue;
    const T* row = rows + positions[slot] * stride;
    if (add) {
      for (std::int64_t i = 0; i < width; ++i) out[i] += row[i];
    } else {
      std::copy_n(row, width, out);
      add = true;
    }
  }
  if (!add) std::fill_n(out, width, T(0));
}

}  // namespace

void gather_assignments(const Stream& stream, const Tensor& x, const Tensor& weights, const Tensor& assignments,
                        std::int64_t slots, const Tensor& out) {
  const std::int64_t width = x.dim(1), stride = out.dim(1);
  dispatch_float(x.dtype(), [&]<class T>() {
    const T* from = x.data<T>();
    const T* weight = stride > width ? weights.data<T>() : nullptr;
    const std::int32_t* assignment = assignments.data<std::int32_t>();
    T* to = out.data<T>();
    stream.pool->parallel_for(assignments.numel(), row_grain(width), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::copy_n(from + assignment[row] / slots * width, width, to + row * stride);
        if (weight != nullptr) to[row * stride + width] = weight[assignment[row]];
      }
    });
  });
}

void combine_rows(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                  bool add) {
  const std::int64_t width = out.dim(1), stride = rows.dim(1), slots = positions.dim(1);
  dispatch_float(out.dtype(), [&]<class T>() {
    const T* from = rows.data<T>();
    const std::int32_t* position = positions.data<std::int32_t>();
    T* to = out.data<T>();
    stream.pool->parallel_for(out.dim(0), row_grain(width), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        combine_token(width, from, stride, position + t * slots, slots, to + t * width, add);
      }
    });
  });
}

void take_last_column(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                      bool add) {
  const std::int64_t stride = rows.dim(1);
  dispatch_float(out.dtype(), [&]<class T>() {
    const T* from = rows.data<T>() + stride - 1;
    const std::int32_t* position = positions.data<std::int32_t>();
    T* to = out.data<T>();
    stream.pool->parallel_for(out.numel(), elementwise_grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t a = begin; a < end; ++a) {
        to[a] = (add ? to[a] : T(0)) + (position[a] < 0 ? T(0) : from[position[a] * stride]);
      }
    });
  });
}

void gather_values(const Stream& stream, const Tensor& values, const Tensor& indices, const Tensor& out) {
  gather_last_column(stream, values.view({values.numel(), 1}), indices, out);
}

void gather_last_column(const Stream& stream, const Tensor& rows, const Tensor& indices, const Tensor& out) {
  const std::int64_t stride = rows.dim(1);
  dispatch_float(out.dtype(), [&]<class T>() {
    const T* from = rows.data<T>() + stride - 1;
    const std::int32_t* index = indices.data<std::int32_t>();
    T* to = out.data<T>();
    stream.pool->parallel_for(indices.numel(), elementwise_grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) to[row] = from[index[row] * stride];
    });
  });
}

}  // namespace hysparse::cpu
