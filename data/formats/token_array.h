/// Token ids of any width, in memory that promises no alignment and may hold anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace hysparse {

/// Element `index` of a packed little-endian array.
template <class T>
T load_element(const std::byte* array, std::int64_t index) {
  T value;
  std::memcpy(&value, array + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

enum class TokenType : std::uint8_t { u8, i8, i16, u16, i32, u32, i64 };

/// Bytes of one id.
std::int64_t token_type_size(TokenType type);
/// "u8", "i8", ...
const char* token_type_name(TokenType type);

class TokenArray {
 public:
  TokenArray() = default;
  /// `data` holds `count` ids and must outlive the array.
  TokenArray(const std::byte* data, std::int64_t count, TokenType type)
      : data_(data), count_(count), type_(type) {}

  std::int64_t size() const { return count_; }
  TokenType type() const { return type_; }
  std::int64_t at(std::int64_t index) const;

  /// Ids [begin, begin + out.size()), which must lie inside. Throws Error, beginning with `path` and naming the
  /// position, for an id that is negative, beyond int32, or not below `vocab_size` (0: unknown).
  void read(std::int64_t begin, std::span<std::int32_t> out, std::int64_t vocab_size,
            const std::string& path) const;

 private:
  const std::byte* data_ = nullptr;
  std::int64_t count_ = 0;
  TokenType type_ = TokenType::u16;
};

}  // namespace hysparse
