/// GPT-2's byte alphabet: a printable character for each byte, so that tokens are text. Printable bytes of
/// Latin-1 stand for themselves, the others in order for U+0100 and on.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hysparse {

/// The code point of each byte.
const std::array<std::uint32_t, 256>& byte_alphabet();

/// The bytes that a token stands for; nothing when it has a character outside the alphabet.
std::optional<std::string> bytes_of_token(std::string_view token);

/// The other way.
std::string token_of_bytes(std::string_view bytes);

}  // namespace hysparse
