/// Element types as files hold them (the names of safetensors), and conversion to the types a Tensor has.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/dtype.h"

namespace hysparse {

enum class StoredDType : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean
};

/// "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", ..., "U8", "BOOL".
std::string_view stored_name(StoredDType dtype);
/// Bytes of one element.
std::int64_t stored_size(StoredDType dtype);
std::optional<StoredDType> stored_dtype_of_name(std::string_view name);
StoredDType stored_dtype(DType dtype);

/// Whether elements convert: f64, f32, f16, bf16 to any float dtype; i64, i32, u8 and BOOL (to u8) to
/// themselves.
bool converts(StoredDType from, DType to);

/// Converts `count` elements; converts(from, to) holds. To a shorter float: round to nearest even (through
/// float for bf16).
void convert_elements(StoredDType from, const void* source, DType to, void* target, std::int64_t count);

}  // namespace hysparse
