/// Scalars as tensors of one element, for losses.
#pragma once

#include "core/tensor.h"

namespace hysparse {

/// [1], rounded to `dtype` (f32 or f64).
Tensor scalar_tensor(double value, DType dtype, Device device);
/// From a GPU: waits for it.
double scalar_value(const Tensor& scalar);

}  // namespace hysparse
