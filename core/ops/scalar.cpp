#include "core/ops/scalar.h"

namespace hysparse {

Tensor scalar_tensor(double value, DType dtype, Device device) {
  const Tensor t = Tensor::empty({1}, dtype);
  dispatch_float(dtype, [&]<class T>() { *t.data<T>() = static_cast<T>(value); });
  return t.to_device(device);
}

double scalar_value(const Tensor& scalar) {
  HYSPARSE_CHECK(scalar.numel() == 1, "scalar {}", scalar.shape().str());
  const Tensor here = scalar.to_device(Device{});
  return dispatch_float(here.dtype(), [&]<class T>() { return static_cast<double>(*here.data<T>()); });
}

}  // namespace hysparse
