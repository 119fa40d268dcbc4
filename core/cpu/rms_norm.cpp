#include "core/cpu/rms_norm.h"

#include <algorithm>
#include <cmath>

#include "core/cpu/lanes.h"
#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

/// Elements below which a thread is not worth waking.
constexpr std::int64_t grain_elements = 1 << 13;
/// Most blocks of rows that dweight is gathered over.
constexpr std::int64_t max_blocks = 64;

template <class T>
T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

std::int64_t row_grain(std::int64_t width) {
  return std::max<std::int64_t>(1, grain_elements / std::max<std::int64_t>(1, width));
}

template <class T>
void forward_row(std::int64_t width, const T* x, const T* weight, double eps, T* y, T* reciprocal) {
  const T squares = lane_sum<T>(width, [=](std::int64_t i) { return x[i] * x[i]; });
  const T r = static_cast<T>(1.0 / std::sqrt(static_cast<double>(squares) / static_cast<double>(width) + eps));
  for (std::int64_t i = 0; i < width; ++i) y[i] = x[i] * r * weight[i];
  *reciprocal = r;
}

/// The gradient of one row to d; dweight (or null) += dy xhat.
template <class T>
void backward_row(std::int64_t width, const T* x, const T* weight, T r, const T* dy, const T* dsum, T* d,
                  T* dweight) {
  const T inner = lane_sum<T>(width, [=](std::int64_t i) { return dy[i] * weight[i] * x[i]; });
  const T scale = inner * r * r * r / static_cast<T>(width);
  if (dsum != nullptr) {
    for (std::int64_t i = 0; i < width; ++i) d[i] = dsum[i] + (dy[i] * weight[i] * r - x[i] * scale);
  } else {
    for (std::int64_t i = 0; i < width; ++i) d[i] = dy[i] * weight[i] * r - x[i] * scale;
  }
  if (dweight != nullptr) {
    for (std::int64_t i = 0; i < width; ++i) dweight[i] += dy[i] * (x[i] * r);
  }
}

template <class T>
void store_row(std::int64_t width, const T* d, T* out, bool add) {
  if (add) {
    for (std::int64_t i = 0; i < width; ++i) out[i] += d[i];
  } else {
    std::copy(d, d + width, out);
  }
}

}  // namespace

void rms_norm_forward(const Stream& stream, const RmsNormForward& args) {
  const std::int64_t rows = args.reciprocal.numel(), width = args.weight.numel();
  dispatch_float(args.x.dtype(), [&]<class T>() {
    const T *x = args.x.data<T>(), *delta = data_or_null<T>(args.delta), *weight = args.weight.data<T>();
    T *sum = data_or_null<T>(args.sum), *y = args.y.data<T>(), *reciprocal = args.reciprocal.data<T>();
    stream.pool->parallel_for(rows, row_grain(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* normed = x + row * width;
        if (delta != nullptr) {
          const T* added = delta + row * width;
          T* s = sum + row * width;
          for (std::int64_t i = 0; i < width; ++i) s[i] = normed[i] + added[i];
          normed = s;
        }
        forward_row(width, normed, weight, args.eps, y + row * width, reciprocal + row);
      }
    });
  });
}

void rms_norm_backward(const Stream& stream, const RmsNormBackward& args) {
  const std::int64_t rows = args.reciprocal.numel(), width = args.weight.numel();
  if (rows == 0) return;
  dispatch_float(args.x.dtype(), [&]<class T>() {
    const T *x = args.x.data<T>(), *weight = args.weight.data<T>(), *reciprocal = args.reciprocal.data<T>();
    const T *dy = args.dy.data<T>(), *dsum = data_or_null<T>(args.dsum);
    T *dx = data_or_null<T>(args.dx), *ddelta = data_or_null<T>(args.ddelta),
      *dweight = data_or_null<T>(args.dweight);
    // Blocks of rows: enough for many threads, each worth the row of dweight it costs.
    const std::int64_t block =
        std::max({row_grain(width), std::int64_t{16}, (rows + max_blocks - 1) / max_blocks});
    const std::int64_t blocks = (rows + block - 1) / block;
    const Tensor partial = Tensor::zeros({dweight == nullptr ? 0 : blocks, width}, args.x.dtype());
    const bool direct = dx != nullptr && !args.add_x;  // the gradient is made in place, else in scratch
    stream.pool->parallel_tasks(blocks, [&](std::int64_t b) {
      std::vector<T> scratch(direct ? 0 : static_cast<std::size_t>(width));
      T* sums = dweight == nullptr ? nullptr : partial.data<T>() + b * width;
      for (std::int64_t row = b * block; row < std::min(rows, (b + 1) * block); ++row) {
        const std::int64_t at = row * width;
        T* d = direct ? dx + at : scratch.data();
        backward_row(width, x + at, weight, reciprocal[row], dy + at, dsum == nullptr ? nullptr : dsum + at, d,
                     sums);
        if (dx != nullptr && !direct) store_row(width, d, dx + at, args.add_x);
        if (ddelta != nullptr) store_row(width, d, ddelta + at, args.add_delta);
      }
    });
    if (dweight == nullptr) return;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const T* sums = partial.data<T>() + b * width;
      for (std::int64_t i = 0; i < width; ++i) dweight[i] += sums[i];
    }
  });
}

}  // namespace hysparse::cpu
