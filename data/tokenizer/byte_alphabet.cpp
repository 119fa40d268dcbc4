#include "data/tokenizer/byte_alphabet.h"

#include "data/tokenizer/unicode.h"

namespace hysparse {
namespace {

constexpr std::uint32_t first_stand_in = 0x100;
constexpr std::uint32_t most_code_points = 0x144;  // one above the last stand-in

constexpr bool printable_byte(std::uint32_t byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

}  // namespace

const std::array<std::uint32_t, 256>& byte_alphabet() {
  static const auto alphabet = [] {
    std::array<std::uint32_t, 256> points{};
    std::uint32_t next = first_stand_in;
    for (std::uint32_t byte = 0; byte < points.size(); ++byte) {
      points[byte] = printable_byte(byte) ? byte : next++;
    }
    return points;
  }();
  return alphabet;
}

std::optional<std::string> bytes_of_token(std::string_view token) {
  static const auto bytes = [] {
    std::array<int, most_code_points> table{};
    table.fill(-1);
    for (std::size_t byte = 0; byte < byte_alphabet().size(); ++byte) {
      table[byte_alphabet()[byte]] = static_cast<int>(byte);
    }
    return table;
  }();
  std::string out;
  const char* const end = token.data() + token.size();
  for (const char* at = token.data(); at < end;) {
    const Character c = character_at(at, end);
    if (c.code_point >= most_code_points || bytes[c.code_point] < 0) return std::nullopt;
    out += static_cast<char>(bytes[c.code_point]);
    at += c.bytes;
  }
  return out;
}

std::string token_of_bytes(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) append_utf8(byte_alphabet()[static_cast<unsigned char>(byte)], out);
  return out;
}

}  // namespace hysparse
