/// Element types. CPU kernels run in f32 and f64 alike, GPU kernels in f32 and bf16; elsewhere bf16 is storage.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "core/error.h"

namespace hysparse {

enum class DType : std::uint8_t { f64, f32, bf16, i64, i32, u8 };

/// bfloat16 as stored: the upper half of a float. Conversion rounds to nearest even; NaN stays NaN.
struct BFloat16 {
  std::uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(is_nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  explicit operator double() const { return static_cast<float>(*this); }
};

/// Bytes of one element.
std::int64_t dtype_size(DType dtype);
/// "f64", "f32", "bf16", "i64", "i32", "u8".
std::string_view dtype_name(DType dtype);
inline bool is_float(DType dtype) {
  return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::bf16;
}
/// Of what is summed up, kept per row or scored while tensors of `dtype` are worked on: f64 for f64, else f32.
inline DType accumulation_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

/// Calls `f.template operator()<T>()` with the C++ type of a computing dtype: f32 or f64.
///   dispatch_float(x.dtype(), [&]<class T>() { kernel<T>(x.data<T>()); });
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& f) {
  HYSPARSE_CHECK(dtype == DType::f32 || dtype == DType::f64, "dtype {}", dtype_name(dtype));
  if (dtype == DType::f64) return f.template operator()<double>();
  return f.template operator()<float>();
}

}  // namespace hysparse
