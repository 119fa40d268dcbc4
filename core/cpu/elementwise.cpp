#include "core/cpu/elementwise.h"

#include "core/backend.h"
#include "core/tape.h"
#include "core/thread_pool.h"

namespace hysparse {
namespace cpu {

void add_in_place(const Stream& stream, const Tensor& out, const Tensor& in) {
  dispatch_float(out.dtype(), [&]<class T>() {
    T* o = out.data<T>();
    const T* i = in.data<T>();
    stream.pool->parallel_for(out.numel(), elementwise_grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t j = begin; j < end; ++j) o[j] += i[j];
    });
  });
}

void add(const Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out) {
  dispatch_float(out.dtype(), [&]<class T>() {
    const T* x = a.data<T>();
    const T* y = b.data<T>();
    T* o = out.data<T>();
    stream.pool->parallel_for(out.numel(), elementwise_grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t j = begin; j < end; ++j) o[j] = x[j] + y[j];
    });
  });
}

}  // namespace cpu

void add_in_place(const Stream& stream, const Tensor& out, const Tensor& in) {
  HYSPARSE_CHECK(out.shape() == in.shape() && out.dtype() == in.dtype(), "{} += {}", out.shape().str(),
                 in.shape().str());
  HYSPARSE_LAUNCH(stream, add_in_place, out, in);
}

}  // namespace hysparse
