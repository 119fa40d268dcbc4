#include "moe/cpu/dispatch.h"

#include <algorithm>
#include <bit>

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

void to_wire(std::int32_t id, float& column) {
  column = std::bit_cast<float>(id);
}
void to_wire(std::int32_t id, double& column) {
  column = id;
}
std::int32_t from_wire(float column) {
  return std::bit_cast<std::int32_t>(column);
}
std::int32_t from_wire(double column) {
  return static_cast<std::int32_t>(column);
}

template <class T>
void combine(const Stream& stream, const T* from, std::int64_t stride, const Tensor& positions,
             const Tensor& out, bool add) {
  const std::int64_t width = out.dim(1), slots = positions.dim(1);
  const std::int32_t* position = positions.data<std::int32_t>();
  T* to = out.data<T>();
  stream.pool->parallel_for(out.dim(0), row_grain(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      combine_token(width, from, stride, position + t * slots, slots, to + t * width, add);
    }
  });
}

}  // namespace

void gather_rows(const Stream& stream, const Tensor& x, const Tensor& tokens, const Tensor& out) {
  const std::int64_t width = x.dim(1);
  dispatch_float(x.dtype(), [&]<class T>() {
    const T* from = x.data<T>();
    const std::int32_t* token = tokens.data<std::int32_t>();
    T* to = out.data<T>();
    stream.pool->parallel_for(tokens.numel(), row_grain(width), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::copy_n(from + token[row] * width, width, to + row * width);
      }
    });
  });
}

void pack_rows(const Stream& stream, const Tensor& x, const Tensor& weights, const Tensor& ids,
               const Tensor& tokens, const Tensor& out) {
  const std::int64_t width = x.dim(1), slots = weights.dim(1), stride = out.dim(1);
  dispatch_float(x.dtype(), [&]<class T>() {
    const T *from = x.data<T>(), *weight = weights.data<T>();
    const std::int32_t *id = ids.data<std::int32_t>(), *token = tokens.data<std::int32_t>();
    T* to = out.data<T>();
    stream.pool->parallel_for(tokens.numel(), row_grain(stride), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        T* at = std::copy_n(from + token[row] * width, width, to + row * stride);
        at = std::copy_n(weight + token[row] * slots, slots, at);
        for (std::int64_t slot = 0; slot < slots; ++slot) to_wire(id[row * slots + slot], at[slot]);
      }
    });
  });
}

void unpack_slots(const Stream& stream, const Tensor& rows, std::int64_t width, const Tensor& weights,
                  const Tensor& ids) {
  const std::int64_t slots = ids.dim(1), stride = rows.dim(1);
  dispatch_float(rows.dtype(), [&]<class T>() {
    const T* from = rows.data<T>() + width;
    T* weight = weights.data<T>();
    std::int32_t* id = ids.data<std::int32_t>();
    stream.pool->parallel_for(ids.dim(0), row_grain(2 * slots), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* at = from + row * stride;
        std::copy_n(at, slots, weight + row * slots);
        for (std::int64_t slot = 0; slot < slots; ++slot) id[row * slots + slot] = from_wire(at[slots + slot]);
      }
    });
  });
}

void combine_rows(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                  bool add) {
  dispatch_float(out.dtype(),
                 [&]<class T>() { combine(stream, rows.data<T>(), rows.dim(1), positions, out, add); });
}

void combine_slots(const Stream& stream, const Tensor& rows, std::int64_t width, const Tensor& positions,
                   const Tensor& out, bool add) {
  dispatch_float(out.dtype(),
                 [&]<class T>() { combine(stream, rows.data<T>() + width, rows.dim(1), positions, out, add); });
}

void take_values(const Stream& stream, const Tensor& values, const Tensor& positions, const Tensor& out,
                 bool add) {
  dispatch_float(out.dtype(), [&]<class T>() {
    const T* from = values.data<T>();
    const std::int32_t* position = positions.data<std::int32_t>();
    T* to = out.data<T>();
    stream.pool->parallel_for(out.numel(), elementwise_grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t a = begin; a < end; ++a) {
        to[a] = (add ? to[a] : T(0)) + (position[a] < 0 ? T(0) : from[position[a]]);
      }
    });
  });
}

void pack_gradients(const Stream& stream, const Tensor& rows, const Tensor& values, const Tensor& positions,
                    const Tensor& out) {
  const std::int64_t width = rows.dim(1), slots = positions.dim(1), stride = out.dim(1);
  dispatch_float(out.dtype(), [&]<class T>() {
    const T *from = rows.data<T>(), *value = values.data<T>();
    const std::int32_t* positions_data = positions.data<std::int32_t>();
    T* to = out.data<T>();
    stream.pool->parallel_for(out.dim(0), row_grain(stride), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const std::int32_t* position = positions_data + t * slots;
        T* row = to + t * stride;
        combine_token(width, from, width, position, slots, row, false);
        for (std::int64_t slot = 0; slot < slots; ++slot) {
          row[width + slot] = position[slot] < 0 ? T(0) : value[position[slot]];
        }
      }
    });
  });
}

}  // namespace hysparse::cpu
