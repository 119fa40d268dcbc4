#include "launch/peak_flops.h"

#include <algorithm>
#include <chrono>

#include "core/cpu/matmul.h"

namespace hysparse {

double measure_peak_flops(const Stream& stream) {
  constexpr std::int64_t n = 768;
  const Tensor a = Tensor::zeros({n, n}, DType::f32), b = Tensor::zeros({n, n}, DType::f32), c = a.clone();
  double best = 0;
  for (int run = 0; run < 4; ++run) {
    const auto start = std::chrono::steady_clock::now();
    cpu::matmul(stream, cpu::Transpose::no, cpu::Transpose::yes, a, b, c, false);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * n * n * n / seconds);
  }
  return best;
}

}  // namespace hysparse
