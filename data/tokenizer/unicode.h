/// Unicode as the tokenizers package sees it (unicode_ranges.inc) and UTF-8, for text that may hold any bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace hysparse {

/// What a character is to a pre-tokenizer. A byte that is no part of a character counts as `other`, alone.
enum class CharClass : std::uint8_t {
  letter,   ///< \p{L}
  number,   ///< \p{N}
  space,    ///< \s but CR and LF
  newline,  ///< CR and LF
  other,
};

struct Character {
  std::uint32_t code_point;  ///< above 0x10FFFF: a byte that is no part of a character
  std::uint32_t bytes;
};
constexpr std::uint32_t invalid_code_point = 0x110000;

/// Decodes the character at `at`; at < end.
inline Character character_at(const char* at, const char* end) {
  const auto* p = reinterpret_cast<const unsigned char*>(at);
  const std::ptrdiff_t left = end - at;
  const std::uint32_t a = p[0];
  const auto continues = [&](int i) { return (p[i] & 0xC0U) == 0x80U; };
  const auto low = [&](int i) { return static_cast<std::uint32_t>(p[i] & 0x3FU); };
  if (a < 0x80) return {a, 1};
  if (a < 0xE0) {
    if (a >= 0xC2 && left > 1 && continues(1)) return {(a & 0x1FU) << 6U | low(1), 2};
  } else if (a < 0xF0) {
    if (left > 2 && continues(1) && continues(2)) {
      const std::uint32_t c = (a & 0x0FU) << 12U | low(1) << 6U | low(2);
      if (c >= 0x800 && (c < 0xD800 || c > 0xDFFF)) return {c, 3};
    }
  } else if (a < 0xF5 && left > 3 && continues(1) && continues(2) && continues(3)) {
    const std::uint32_t c = (a & 0x07U) << 18U | low(1) << 12U | low(2) << 6U | low(3);
    if (c >= 0x10000 && c <= 0x10FFFF) return {c, 4};
  }
  return {invalid_code_point, 1};
}

void append_utf8(std::uint32_t code_point, std::string& text);

/// A table of 0x110001 classes, by code point and for invalid_code_point; made at the first call.
const CharClass* char_classes();

/// Whether the package's Digits takes it.
bool is_digit(std::uint32_t code_point);
/// \w of Rust's regular expressions.
bool is_word_character(std::uint32_t code_point);
/// Whether the package's NFC knows no mark or composition there, whatever later versions of Unicode say.
bool newer_than_nfc(std::uint32_t code_point);

}  // namespace hysparse
