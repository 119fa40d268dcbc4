#include "tests/core/gpu_test.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace hysparse::testing {

const Stream& gpu() {
  static ThreadPool pool(2);
  static const Stream stream = cuda::open_stream(0, &pool);
  return stream;
}

Tensor on_gpu(const Tensor& cpu, DType dtype) {
  return cpu.to(dtype).to_device(gpu().device);
}
Tensor on_gpu(const Tensor& cpu) {
  return cpu.to_device(gpu().device);
}

Tensor random_for(DType dtype, Shape shape, std::uint64_t seed, const std::string& name, double scale) {
  return random_tensor(shape, seed, name, scale, DType::f32).to(dtype).to(DType::f32);
}

Tensor poisoned(Shape shape, DType dtype) {
  const Tensor t = Tensor::empty(shape, dtype);
  std::memset(t.raw(), 0xff, static_cast<std::size_t>(t.bytes()));
  return on_gpu(t);
}

double gpu_error(const Tensor& gpu, const Tensor& cpu) {
  const double error = relative_error(gpu.to_device(Device{}).to(DType::f64), cpu.to(DType::f64));
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

}  // namespace hysparse::testing
