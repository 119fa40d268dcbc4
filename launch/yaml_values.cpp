#include "launch/yaml_values.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

namespace hysparse {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// from_chars without its leading-plus gap, over the whole text.
template <class T>
std::optional<T> from_text(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  if (text.empty() || text.front() == '+') return std::nullopt;
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<double> parse_number(const std::string& text) {
  // Rules out "inf", "nan" and their spellings, and signs in the middle such as "+-1".
  const std::size_t first = text.empty() || (text[0] != '+' && text[0] != '-') ? 0 : 1;
  if (first >= text.size() || !(is_digit(text[first]) || text[first] == '.')) return std::nullopt;
  const auto value = from_text<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::optional<std::int64_t> parse_integer(const std::string& text) {
  const std::size_t first = text.empty() || (text[0] != '+' && text[0] != '-') ? 0 : 1;
  if (first < text.size() &&
      std::all_of(text.begin() + static_cast<std::ptrdiff_t>(first), text.end(), is_digit)) {
    return from_text<std::int64_t>(text);
  }
  const auto number = parse_number(text);
  constexpr double exact = 9007199254740992.0;  // 2^53: beyond it a double no longer tells whole numbers apart
  if (!number || std::abs(*number) > exact || std::floor(*number) != *number) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

std::optional<bool> parse_boolean(const std::string& text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return std::nullopt;
}

std::string format_number(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find('.') != std::string::npos) return text;
  const std::size_t exponent = text.find('e');
  text.insert(exponent == std::string::npos ? text.size() : exponent, ".0");
  return text;
}

std::string format_text(const std::string& text) {
  const auto plain = [](char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '/' ||
           c == '.' || c == '-';
  };
  // Plain only when it starts like a word or a path and is no word that YAML readers take for something else.
  static constexpr std::string_view words[] = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  const bool starts_well =
      !text.empty() && (text[0] == '/' || text[0] == '_' || (lower[0] >= 'a' && lower[0] <= 'z'));
  if (starts_well && std::all_of(text.begin(), text.end(), plain) &&
      std::find(std::begin(words), std::end(words), lower) == std::end(words)) {
    return text;
  }
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace hysparse
