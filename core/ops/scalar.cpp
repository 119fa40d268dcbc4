#include "core/ops/scalar.h"

namespace hysparse {

Tensor scalar_tensor(double value, DType dtype, Device device) {
  const Tensor t = Tensor::empty({1}, dtype, device);
  HYSPARSE_CHECK(device.is_cpu());
  dispatch_float(dtype, [&]<class T>() { *t.data<T>() = static_cast<T>(value); });
  return t;
}

double scalar_value(const Tensor& scalar) {
  HYSPARSE_CHECK(scalar.numel() == 1 && scalar.device().is_cpu(), "scalar {}", scalar.shape().str());
  return dispatch_float(scalar.dtype(), [&]<class T>() { return static_cast<double>(*scalar.data<T>()); });
}

}  // namespace hysparse
