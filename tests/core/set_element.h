/// An element of a host tensor of any dtype.
#pragma once

#include "core/tensor.h"

namespace hysparse::testing {

/// Sets the element at flat index `i`, rounded to the tensor's dtype.
inline void set_element(const Tensor& tensor, std::int64_t i, double value) {
  switch (tensor.dtype()) {
    case DType::f64:
      tensor.data<double>()[i] = value;
      break;
    case DType::f32:
      tensor.data<float>()[i] = static_cast<float>(value);
      break;
    case DType::bf16:
      tensor.data<BFloat16>()[i] = BFloat16(static_cast<float>(value));
      break;
    case DType::i64:
      tensor.data<std::int64_t>()[i] = static_cast<std::int64_t>(value);
      break;
    case DType::i32:
      tensor.data<std::int32_t>()[i] = static_cast<std::int32_t>(value);
      break;
    case DType::u8:
      tensor.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(value);
      break;
  }
}

}  // namespace hysparse::testing
