#include "core/cpu/elementwise.h"

#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

template <class F>
void dispatch_sum(DType dtype, F&& f) {
  if (dtype == DType::i64) return f.template operator()<std::int64_t>();
  dispatch_float(dtype, f);
}

}  // namespace

void add_in_place(const Stream& stream, const Tensor& out, const Tensor& in) {
  dispatch_sum(out.dtype(), [&]<class T>() {
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

}  // namespace hysparse::cpu
