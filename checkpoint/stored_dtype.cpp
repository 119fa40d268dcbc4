#include "checkpoint/stored_dtype.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace hysparse {
namespace {

struct Row {
  std::string_view name;
  std::int64_t size;
};
/// In the order of StoredDType.
constexpr std::array<Row, 15> rows{{{"F64", 8},
                                    {"F32", 4},
                                    {"F16", 2},
                                    {"BF16", 2},
                                    {"F8_E4M3", 1},
                                    {"F8_E5M2", 1},
                                    {"I64", 8},
                                    {"I32", 4},
                                    {"I16", 2},
                                    {"I8", 1},
                                    {"U64", 8},
                                    {"U32", 4},
                                    {"U16", 2},
                                    {"U8", 1},
                                    {"BOOL", 1}}};

/// IEEE half precision: sign, 5 bits of exponent (bias 15), 10 of mantissa. Every value is a float.
struct Half {
  std::uint16_t bits;
  explicit operator float() const {
    const int exponent = (bits >> 10) & 0x1f;
    const std::uint32_t mantissa = bits & 0x3ffu;
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0) {
      const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
      return sign != 0 ? -magnitude : magnitude;
    }
    return std::bit_cast<float>(sign | (static_cast<std::uint32_t>(exponent + 112) << 23) | (mantissa << 13));
  }
  explicit operator double() const { return static_cast<float>(*this); }
};

/// Files need not align their elements: load and store go through memcpy.
template <class From, class To>
void convert(const void* source, void* target, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    From from;
    std::memcpy(&from, static_cast<const char*>(source) + i * static_cast<std::int64_t>(sizeof(From)),
                sizeof(From));
    To to;
    if constexpr (std::is_same_v<To, BFloat16>) {
      to = BFloat16(static_cast<float>(from));
    } else {
      to = static_cast<To>(from);
    }
    std::memcpy(static_cast<char*>(target) + i * static_cast<std::int64_t>(sizeof(To)), &to, sizeof(To));
  }
}

template <class From>
void convert_to(DType to, const void* source, void* target, std::int64_t count) {
  if (to == DType::f64) return convert<From, double>(source, target, count);
  if (to == DType::f32) return convert<From, float>(source, target, count);
  convert<From, BFloat16>(source, target, count);
}

bool is_stored_float(StoredDType dtype) {
  return dtype == StoredDType::f64 || dtype == StoredDType::f32 || dtype == StoredDType::f16 ||
         dtype == StoredDType::bf16;
}

}  // namespace

std::string_view stored_name(StoredDType dtype) {
  return rows[static_cast<std::size_t>(dtype)].name;
}

std::int64_t stored_size(StoredDType dtype) {
  return rows[static_cast<std::size_t>(dtype)].size;
}

std::optional<StoredDType> stored_dtype_of_name(std::string_view name) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].name == name) return static_cast<StoredDType>(i);
  }
  return std::nullopt;
}

StoredDType stored_dtype(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return StoredDType::f64;
    case DType::f32:
      return StoredDType::f32;
    case DType::bf16:
      return StoredDType::bf16;
    case DType::i64:
      return StoredDType::i64;
    case DType::i32:
      return StoredDType::i32;
    case DType::u8:
      return StoredDType::u8;
  }
  HYSPARSE_CHECK(false, "dtype {}", static_cast<int>(dtype));
  return StoredDType::u8;
}

bool converts(StoredDType from, DType to) {
  if (is_stored_float(from)) return is_float(to);
  return from == stored_dtype(to) || (from == StoredDType::boolean && to == DType::u8);
}

void convert_elements(StoredDType from, const void* source, DType to, void* target, std::int64_t count) {
  HYSPARSE_CHECK(converts(from, to), "{} to {}", stored_name(from), dtype_name(to));
  if (!is_stored_float(from) || from == stored_dtype(to)) {
    if (count > 0) std::memcpy(target, source, static_cast<std::size_t>(count * stored_size(from)));
    return;
  }
  switch (from) {
    case StoredDType::f64:
      return convert_to<double>(to, source, target, count);
    case StoredDType::f32:
      return convert_to<float>(to, source, target, count);
    case StoredDType::f16:
      return convert_to<Half>(to, source, target, count);
    default:
      return convert_to<BFloat16>(to, source, target, count);
  }
}

}  // namespace hysparse
