/// Helpers of the fuzz targets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/error.h"

namespace hysparse::fuzz {

/// A message is shown on a terminal, one line for each problem: no control characters, and no end of the input
/// in it.
inline void check_message(const Error& error) {
  constexpr std::size_t longest = 4096;
  for (const std::string& problem : error.problems()) {
    HYSPARSE_CHECK(problem.size() <= longest, "a message of {} bytes: {}", problem.size(),
                   problem.substr(0, 300));
    for (const char c : problem) {
      const auto byte = static_cast<unsigned char>(c);
      HYSPARSE_CHECK(byte >= 0x20 && byte != 0x7f, "control character {:02x} in the message: {}", byte,
                     problem);
    }
  }
}

/// Runs `action`; an Error that can be shown is fine. HYSPARSE_FUZZ_SHOW in the environment shows it.
template <class Action>
void accept_or_refuse(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    check_message(error);
    static const bool show = std::getenv("HYSPARSE_FUZZ_SHOW") != nullptr;
    if (show) fmt::print(stderr, "{}\n", error.what());
  }
}

/// The next bytes of the input as a number, zeros where it has ended.
template <class T>
T take(std::string_view& input) {
  static_assert(std::is_unsigned_v<T>);
  T value = 0;
  const std::size_t bytes = std::min(sizeof value, input.size());
  std::memcpy(&value, input.data(), bytes);
  input.remove_prefix(bytes);
  return value;
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace hysparse::fuzz
