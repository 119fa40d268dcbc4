#include "data/formats/token_array.h"

#include <limits>

#include "core/error.h"

namespace hysparse {
namespace {

/// Copies and converts; returns the largest id, negative ones counting as huge.
template <class T>
std::uint64_t copy_ids(const std::byte* tokens, std::int64_t begin, std::span<std::int32_t> out) {
  using Wide = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  using Signed = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;
  Wide largest = 0;
  const std::byte* from = tokens + begin * static_cast<std::int64_t>(sizeof(T));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const T id = load_element<T>(from, static_cast<std::int64_t>(i));
    const auto wide = std::is_signed_v<T> ? static_cast<Wide>(static_cast<Signed>(id)) : static_cast<Wide>(id);
    out[i] = static_cast<std::int32_t>(wide);
    largest = wide > largest ? wide : largest;
  }
  return largest;
}

/// `body` called with a value of the element type.
template <class Body>
auto with_type(TokenType type, Body&& body) {
  switch (type) {
    case TokenType::u8:
      return body(std::uint8_t{});
    case TokenType::i8:
      return body(std::int8_t{});
    case TokenType::i16:
      return body(std::int16_t{});
    case TokenType::u16:
      return body(std::uint16_t{});
    case TokenType::i32:
      return body(std::int32_t{});
    case TokenType::u32:
      return body(std::uint32_t{});
    case TokenType::i64:
      break;
  }
  return body(std::int64_t{});
}

}  // namespace

std::int64_t token_type_size(TokenType type) {
  return with_type(type, [](auto zero) { return static_cast<std::int64_t>(sizeof zero); });
}

const char* token_type_name(TokenType type) {
  switch (type) {
    case TokenType::u8:
      return "u8";
    case TokenType::i8:
      return "i8";
    case TokenType::i16:
      return "i16";
    case TokenType::u16:
      return "u16";
    case TokenType::i32:
      return "i32";
    case TokenType::u32:
      return "u32";
    case TokenType::i64:
      return "i64";
  }
  return "?";
}

std::int64_t TokenArray::at(std::int64_t index) const {
  HYSPARSE_CHECK(index >= 0 && index < count_, "token {} of {}", index, count_);
  return with_type(
      type_, [&](auto zero) { return static_cast<std::int64_t>(load_element<decltype(zero)>(data_, index)); });
}

void TokenArray::read(std::int64_t begin, std::span<std::int32_t> out, std::int64_t vocab_size,
                      const std::string& path) const {
  const auto count = static_cast<std::int64_t>(out.size());
  HYSPARSE_CHECK(begin >= 0 && begin <= count_ && count <= count_ - begin, "[{}, +{}) of {}", begin, count,
                 count_);
  if (out.empty()) return;
  const std::uint64_t largest =
      with_type(type_, [&](auto zero) { return copy_ids<decltype(zero)>(data_, begin, out); });
  constexpr std::int64_t no_limit = std::int64_t{std::numeric_limits<std::int32_t>::max()} + 1;
  const std::int64_t limit = vocab_size > 0 ? vocab_size : no_limit;
  if (largest < static_cast<std::uint64_t>(limit)) return;
  for (std::int64_t i = begin;; ++i) {
    const std::int64_t id = at(i);
    if (id < 0) throw_error("{}: token {} is {}: ids are >= 0", path, i, id);
    if (id >= limit && vocab_size > 0) {
      throw_error("{}: token {} is {}, but vocab_size is {}", path, i, id, vocab_size);
    }
    if (id >= limit) throw_error("{}: token {} is {}, past int32", path, i, id);
  }
}

}  // namespace hysparse
