#include "data/json_text.h"

#include <cstdint>
#include <cstring>
#include <optional>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/printable.h"

namespace hysparse {
namespace {

/// Walks what is certainly valid; gives up on anything wrong, rare or hard (nlohmann decides then, and words
/// the message).
class FastWalk {
 public:
  FastWalk(std::string_view line, std::string_view key) : p_(line.data()), end_(p_ + line.size()), key_(key) {}

  /// The raw string (escapes as they are) under the key, and whether it has escapes. False: gave up.
  bool find(std::string_view& raw, bool& escaped) {
    bool found = false;
    skip_space();
    if (!take('{')) return false;
    skip_space();
    if (take('}')) return false;  // no key: an error to word
    do {
      skip_space();
      std::string_view name;
      bool name_escaped = false;
      if (!string(name, name_escaped) || name_escaped) return false;
      skip_space();
      if (!take(':')) return false;
      skip_space();
      if (name == key_) {
        if (!string(raw, escaped)) return false;
        found = true;
      } else if (!value(0)) {
        return false;
      }
      skip_space();
    } while (take(','));
    if (!take('}')) return false;
    skip_space();
    return found && p_ == end_;
  }

 private:
  static constexpr int most_depth = 64;

  bool take(char c) {
    if (p_ == end_ || *p_ != c) return false;
    ++p_;
    return true;
  }
  bool word(std::string_view text) {
    if (static_cast<std::size_t>(end_ - p_) < text.size() || std::memcmp(p_, text.data(), text.size()) != 0) {
      return false;
    }
    p_ += text.size();
    return true;
  }
  void skip_space() {
    while (p_ != end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\r' || *p_ == '\n')) ++p_;
  }

  /// One well-formed sequence of two to four bytes.
  bool sequence() {
    const auto byte = [&](std::ptrdiff_t i) -> unsigned {
      return end_ - p_ > i ? static_cast<unsigned char>(p_[i]) : 0U;
    };
    const auto next = [&](std::ptrdiff_t i) { return (byte(i) & 0xC0U) == 0x80U; };
    const unsigned first = byte(0), second = byte(1);
    if (first >= 0xC2 && first <= 0xDF && next(1)) return p_ += 2, true;
    if (first >= 0xE0 && first <= 0xEF && next(1) && next(2)) {
      if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F)) return false;
      return p_ += 3, true;
    }
    if (first >= 0xF0 && first <= 0xF4 && next(1) && next(2) && next(3)) {
      if ((first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) return false;
      return p_ += 4, true;
    }
    return false;
  }

  /// Moves to the next byte that is a quote, a backslash, a control character or not ASCII, or to the end.
  void skip_plain() {
    constexpr std::uint64_t ones = 0x0101010101010101, highs = 0x8080808080808080;
    for (; end_ - p_ >= 8; p_ += 8) {
      std::uint64_t w = 0;
      std::memcpy(&w, p_, 8);
      const std::uint64_t quote = w ^ (ones * '"'), back = w ^ (ones * '\\');
      // A borrow may mark bytes above one that stops anyway.
      if (((w | (w - ones * 0x20) | (quote - ones) | (back - ones)) & highs) != 0) break;
    }
    while (p_ != end_) {
      const auto c = static_cast<unsigned char>(*p_);
      if (c == '"' || c == '\\' || c < 0x20 || c >= 0x80) return;
      ++p_;
    }
  }

  bool string(std::string_view& raw, bool& escaped) {
    if (!take('"')) return false;
    const char* begin = p_;
    escaped = false;
    while (true) {
      skip_plain();
      if (p_ == end_) return false;
      if (*p_ == '"') {
        raw = {begin, static_cast<std::size_t>(p_ - begin)};
        ++p_;
        return true;
      }
      if (*p_ == '\\') {
        escaped = true;
        if (!escape()) return false;
      } else if (!sequence()) {  // a control character is none, either
        return false;
      }
    }
  }

  bool escape() {
    if (end_ - p_ < 2) return false;
    const char c = p_[1];
    if (c != 'u') {
      p_ += 2;
      return c != '\0' && std::strchr("\"\\/bfnrt", c) != nullptr;
    }
    const unsigned code = unit();
    if (code >= 0xD800 && code <= 0xDBFF) {  // half a pair: the other half must follow
      const unsigned low = unit();
      return low >= 0xDC00 && low <= 0xDFFF;
    }
    return code < no_unit && (code < 0xDC00 || code > 0xDFFF);
  }

  static constexpr unsigned no_unit = 0x10000;

  /// The number of the \uXXXX here, which is passed; no_unit when there is none.
  unsigned unit() {
    if (end_ - p_ < 6 || p_[0] != '\\' || p_[1] != 'u') return no_unit;
    unsigned value = 0;
    for (int i = 2; i < 6; ++i) {
      const char h = p_[i];
      const bool digit = h >= '0' && h <= '9';
      if (!digit && !(h >= 'a' && h <= 'f') && !(h >= 'A' && h <= 'F')) return no_unit;
      value = value * 16 + static_cast<unsigned>(digit ? h - '0' : (h | 0x20) - 'a' + 10);
    }
    p_ += 6;
    return value;
  }

  bool digits() {
    const char* begin = p_;
    while (p_ != end_ && *p_ >= '0' && *p_ <= '9') ++p_;
    return p_ != begin;
  }

  /// Without exponents, whose range somebody must judge.
  bool number() {
    take('-');
    const bool zero = p_ != end_ && *p_ == '0';
    const char* begin = p_;
    if (!digits() || (zero && p_ - begin > 1) || p_ - begin > 300) return false;
    if (take('.') && !digits()) return false;
    return p_ == end_ || (*p_ != 'e' && *p_ != 'E');
  }

  bool value(int depth) {
    if (p_ == end_ || depth == most_depth) return false;
    std::string_view raw;
    bool escaped = false;
    switch (*p_) {
      case '"':
        return string(raw, escaped);
      case '{':
        return members(depth);
      case '[':
        return elements(depth);
      case 't':
        return word("true");
      case 'f':
        return word("false");
      case 'n':
        return word("null");
      default:
        return number();
    }
  }

  bool members(int depth) {
    ++p_;
    skip_space();
    if (take('}')) return true;
    do {
      std::string_view raw;
      bool escaped = false;
      skip_space();
      if (!string(raw, escaped)) return false;
      skip_space();
      if (!take(':')) return false;
      skip_space();
      if (!value(depth + 1)) return false;
      skip_space();
    } while (take(','));
    return take('}');
  }

  bool elements(int depth) {
    ++p_;
    skip_space();
    if (take(']')) return true;
    do {
      skip_space();
      if (!value(depth + 1)) return false;
      skip_space();
    } while (take(','));
    return take(']');
  }

  const char* p_;
  const char* end_;
  std::string_view key_;
};

unsigned hex4(const char* p) {
  unsigned value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = p[i];
    value = value * 16 + static_cast<unsigned>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return value;
}

void append_utf8(std::string& out, unsigned code) {
  const auto put = [&](unsigned byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else {
    if (code < 0x10000) {
      put(0xE0 | code >> 12);
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3F));
    }
    put(0x80 | (code >> 6 & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

/// Of escapes that are well formed, surrogates in pairs.
void unescape(std::string_view raw, std::string& out) {
  out.clear();
  for (std::size_t i = 0; i < raw.size();) {
    const std::size_t slash = raw.find('\\', i);
    out.append(raw, i, slash - i);
    if (slash == std::string_view::npos) break;
    const char c = raw[slash + 1];
    i = slash + 2;
    if (c != 'u') {
      constexpr std::string_view names = "bfnrt", bytes = "\b\f\n\r\t";
      const std::size_t at = names.find(c);
      out.push_back(at == std::string_view::npos ? c : bytes[at]);
      continue;
    }
    unsigned code = hex4(raw.data() + i);
    i += 4;
    if (code >= 0xD800 && code <= 0xDBFF) {
      const unsigned low = hex4(raw.data() + i + 2);
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      i += 6;
    }
    append_utf8(out, code);
  }
}

/// nlohmann's message without its identifier and its "at line 1". It quotes the line, as long as that is.
std::string parse_message(std::string_view what) {
  const std::size_t column = what.find("column ");
  return printable(column == std::string_view::npos ? what : what.substr(column), 300);
}

std::string slow_text(std::string_view line, const std::string& key) {
  try {
    nlohmann::json object = nlohmann::json::parse(line);
    if (!object.is_object()) throw_error("expected a JSON object, found {}", object.type_name());
    const auto entry = object.find(key);
    if (entry == object.end()) throw_error("the object has no key \"{}\" (--text-key)", key);
    if (!entry->is_string()) throw_error("\"{}\" is {}, expected a string", key, entry->type_name());
    return std::move(entry->get_ref<std::string&>());
  } catch (const nlohmann::json::parse_error& error) {
    throw_error("bad JSON: {}", parse_message(error.what()));
  } catch (const nlohmann::json::out_of_range& error) {  // a number that no double holds
    throw_error("bad JSON: {}", parse_message(error.what()));
  }
}

}  // namespace

std::string_view json_text(std::string_view line, const std::string& key, std::string& scratch) {
  std::string_view raw;
  bool escaped = false;
  if (FastWalk(line, key).find(raw, escaped)) {
    if (!escaped) return raw;
    unescape(raw, scratch);
    return scratch;
  }
  scratch = slow_text(line, key);
  return scratch;
}

}  // namespace hysparse
