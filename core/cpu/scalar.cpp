#include "core/cpu/scalar.h"

#include <algorithm>

namespace hysparse::cpu {

void fill(const Stream&, const Tensor& out, double value) {
  dispatch_float(out.dtype(),
                 [&]<class T>() { std::fill_n(out.data<T>(), out.numel(), static_cast<T>(value)); });
}

void sum_terms(const Stream&, const Tensor& terms, const Tensor& total) {
  double sum = 0;
  for (std::int64_t i = 0; i < terms.numel(); ++i) sum += terms.data<double>()[i];
  *total.data<double>() = sum;
}

}  // namespace hysparse::cpu
