#include "launch/peak_flops.h"

#include <algorithm>
#include <chrono>

#include "core/backend.h"
#include "core/cpu/matmul.h"
#include "core/cuda/context.h"

namespace hysparse {
namespace {

/// Dense bf16 of one H100 or H200 SXM, by NVIDIA's data sheet; other GPUs are not known.
double gpu_peak_flops() {
  if constexpr (cuda_build) {
    const std::string name = cuda::properties().name;
    if (name.find("H100") != std::string::npos || name.find("H200") != std::string::npos) return 989e12;
  }
  return 0;
}

}  // namespace

double measure_peak_flops(const Stream& stream) {
  if (!stream.device.is_cpu()) return gpu_peak_flops();
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
