#include "data/tokenizer/regex.h"

#include <algorithm>
#include <array>
#include <cstdint>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.h"
#include "core/printable.h"

namespace hysparse {
namespace {

constexpr std::size_t max_pattern_bytes = 64 << 10;
constexpr std::uint32_t max_steps = 10'000'000;  // of one search
constexpr std::size_t jit_stack_bytes = 32 << 10, max_jit_stack_bytes = 16 << 20;

// What \s and \w mean to Oniguruma, inside a class. (PCRE2's \s takes U+180E, its \w no marks.)
constexpr std::string_view space_items =
    R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view not_space_items =
    R"(\x{0}-\x{8}\x{e}-\x{1f}!-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view word_items = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d})";

/// The pattern in PCRE2's words.
std::string translate(std::string_view pattern, const std::string& where) {
  const auto refuse = [&](std::string_view what) {
    throw_error("{}: the pattern '{}' has {}, which is not supported", where, printable(pattern), what);
  };
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const auto next = [&](std::size_t ahead) { return i + ahead < pattern.size() ? pattern[i + ahead] : '\0'; };
    if (c == '\\') {
      const char escaped = next(1);
      ++i;
      switch (escaped) {
        case 's':
          out += in_class ? std::string(space_items) : fmt::format("[{}]", space_items);
          break;
        case 'S':
          out += in_class ? std::string(not_space_items) : fmt::format("[^{}]", space_items);
          break;
        case 'w':
          out += in_class ? std::string(word_items) : fmt::format("[{}]", word_items);
          break;
        case 'W':
          if (in_class) refuse("\\W in a class");
          out += fmt::format("[^{}]", word_items);
          break;
        case 'b':
        case 'B':
          if (in_class && escaped == 'b') {
            out += "\\b";
            break;
          }
          [[fallthrough]];
        case 'h':
        case 'H':
        case 'R':
        case 'X':
        case 'K':
        case 'G':
        case 'Z':
          refuse(std::string("\\") + escaped);
          break;
        case 'u': {  // \uHHHH
          const std::string_view digits = pattern.substr(std::min(i + 1, pattern.size()), 4);
          if (digits.size() != 4 ||
              digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos)
            refuse("\\u without four hexadecimal digits");
          out += fmt::format("\\x{{{}}}", digits);
          i += digits.size();
          break;
        }
        case '\0':
          refuse("a backslash at its end");
          break;
        default:
          out += {'\\', escaped};
      }
      continue;
    }
    if (in_class) {
      if (c == '[' && next(1) != ':') refuse("a class in a class");
      if (c == '&' && next(1) == '&') refuse("&& in a class");
      if (c == ']') in_class = false;
      if (c == '[') {  // [:name:]
        const std::size_t end = pattern.find(":]", i);
        if (end == std::string_view::npos) refuse("[: without :]");
        out += pattern.substr(i, end + 2 - i);
        i = end + 1;
        continue;
      }
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (next(1) == '^') out += pattern[++i];
      if (next(1) == ']') refuse("an empty class");
      continue;
    } else if (c == '}' && next(1) == '+') {
      refuse("{}+");  // possessive in PCRE2, not there
    } else if (c == '(' && next(1) == '?') {
      const std::size_t end = pattern.find_first_not_of("imsx-^", i + 2);
      const std::string_view flags = pattern.substr(i + 2, end == std::string_view::npos ? end : end - i - 2);
      if (flags.find_first_of("ms^") != std::string_view::npos) refuse("the flags m or s");
    }
    out += c;
  }
  return out;
}

std::string message(int code) {
  std::array<PCRE2_UCHAR8, 256> text{};
  pcre2_get_error_message_8(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct Regex::Impl {
  pcre2_code_8* code = nullptr;
  std::string where;
  ~Impl() { pcre2_code_free_8(code); }
};

struct Regex::Room::Impl {
  pcre2_match_data_8* match = pcre2_match_data_create_8(1, nullptr);
  pcre2_match_context_8* context = pcre2_match_context_create_8(nullptr);
  pcre2_jit_stack_8* stack = pcre2_jit_stack_create_8(jit_stack_bytes, max_jit_stack_bytes, nullptr);
  Impl() {
    if (match == nullptr || context == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit_8(context, max_steps);
    if (stack != nullptr) pcre2_jit_stack_assign_8(context, nullptr, stack);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    pcre2_match_data_free_8(match);
    pcre2_match_context_free_8(context);
    pcre2_jit_stack_free_8(stack);
  }
};

Regex::Room::Room() : impl_(std::make_unique<Impl>()) {}
Regex::Room::~Room() = default;
Regex::Room::Room(Room&&) noexcept = default;

Regex::Regex(std::string_view pattern, const std::string& where) : impl_(std::make_unique<Impl>()) {
  if (pattern.size() > max_pattern_bytes)
    throw_error("{}: a pattern of {} bytes, at most {} are allowed", where, pattern.size(), max_pattern_bytes);
  const std::string text = translate(pattern, where);
  const std::unique_ptr<pcre2_compile_context_8, void (*)(pcre2_compile_context_8*)> context(
      pcre2_compile_context_create_8(nullptr), pcre2_compile_context_free_8);
  pcre2_set_newline_8(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  std::size_t offset = 0;
  constexpr std::uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  impl_->code = pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), options, &code,
                                &offset, context.get());
  if (impl_->code == nullptr)
    throw_error("{}: the pattern '{}' is not supported: {}", where, printable(pattern), message(code));
  impl_->where = where;
  pcre2_jit_compile_8(impl_->code, PCRE2_JIT_COMPLETE);  // without it, it is interpreted
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

bool Regex::search(std::string_view text, std::size_t from, Room& room, Match& match) const {
  const int found = pcre2_match_8(impl_->code, reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), from, 0,
                                  room.impl_->match, room.impl_->context);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) throw_error("{}: its pattern cannot be searched for: {}", impl_->where, message(found));
  const std::size_t* offsets = pcre2_get_ovector_pointer_8(room.impl_->match);
  match = {offsets[0], offsets[1]};
  return true;
}

}  // namespace hysparse
