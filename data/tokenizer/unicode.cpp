#include "data/tokenizer/unicode.h"

#include <algorithm>
#include <iterator>
#include <memory>

#include <utf8proc.h>

namespace hysparse {
namespace {

struct CodePointRange {
  std::uint32_t low, high;  // both inside
};

#include "data/tokenizer/unicode_ranges.inc"

/// White_Space, which has not changed since Unicode 6.3.
constexpr CodePointRange space_ranges[] = {
    {0x9, 0xd},       {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680},
    {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
};
/// Other_Alphabetic outside the marks: circled and squared letters.
constexpr CodePointRange letter_like_ranges[] = {
    {0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};

template <std::size_t n>
bool inside(const CodePointRange (&ranges)[n], std::uint32_t code_point) {
  const auto* range = std::lower_bound(std::begin(ranges), std::end(ranges), code_point,
                                       [](const CodePointRange& r, std::uint32_t c) { return r.high < c; });
  return range != std::end(ranges) && range->low <= code_point;
}

std::unique_ptr<CharClass[]> make_classes() {
  auto classes = std::make_unique<CharClass[]>(invalid_code_point + 1);
  std::fill_n(classes.get(), invalid_code_point + 1, CharClass::other);
  const auto set = [&](const auto& ranges, CharClass to) {
    for (const CodePointRange& r : ranges) std::fill(&classes[r.low], &classes[r.high] + 1, to);
  };
  set(letter_ranges, CharClass::letter);
  set(number_ranges, CharClass::number);
  set(space_ranges, CharClass::space);
  classes['\r'] = classes['\n'] = CharClass::newline;
  return classes;
}

}  // namespace

const CharClass* char_classes() {
  static const std::unique_ptr<CharClass[]> classes = make_classes();
  return classes.get();
}

bool is_digit(std::uint32_t code_point) {
  return inside(number_ranges, code_point) || inside(more_digit_ranges, code_point);
}

bool is_word_character(std::uint32_t code_point) {
  if (code_point >= invalid_code_point) return false;
  if (inside(letter_ranges, code_point) || inside(letter_like_ranges, code_point)) return true;
  constexpr std::uint32_t zero_width_non_joiner = 0x200c, zero_width_joiner = 0x200d;
  if (code_point == zero_width_non_joiner || code_point == zero_width_joiner) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool newer_than_nfc(std::uint32_t code_point) {
  return inside(newer_than_nfc_ranges, code_point);
}

void append_utf8(std::uint32_t code_point, std::string& text) {
  const auto put = [&text](std::uint32_t byte) { text += static_cast<char>(byte); };
  const auto low = [&](int shift) { return 0x80U | (code_point >> static_cast<unsigned>(shift) & 0x3FU); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0U | code_point >> 6U);
    put(low(0));
  } else if (code_point < 0x10000) {
    put(0xE0U | code_point >> 12U);
    put(low(6));
    put(low(0));
  } else {
    put(0xF0U | code_point >> 18U);
    put(low(12));
    put(low(6));
    put(low(0));
  }
}

}  // namespace hysparse
