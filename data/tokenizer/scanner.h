/// The pre-tokenizers' regular expressions that everybody uses, written out: each function gives the end of the
/// word that begins at `at` (at < end), as the leftmost alternative of its pattern that matches there.
#pragma once

#include <string_view>

#include "data/tokenizer/unicode.h"

namespace hysparse {

/// GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
inline constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
/// Llama 3 (and cl100k).
inline constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
/// Qwen 2 and 3: as Llama 3, but numbers digit by digit.
inline constexpr std::string_view qwen_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

class Scanner {
 public:
  explicit Scanner(const char* end) : classes_(char_classes()), end_(end) {}

 protected:
  static bool is_space(CharClass c) { return c == CharClass::space || c == CharClass::newline; }

  /// The class of the character at `at` (at < end) and where it ends.
  CharClass classify(const char* at, const char*& next) const {
    const auto byte = static_cast<unsigned char>(*at);
    if (byte < 0x80) {
      next = at + 1;
      return classes_[byte];
    }
    const Character c = character_at(at, end_);
    next = at + c.bytes;
    return classes_[c.code_point];
  }
  const char* skip(CharClass kind, const char* at) const {
    for (const char* next = at; at < end_; at = next) {
      if (classify(at, next) != kind) break;
    }
    return at;
  }
  const char* skip_newlines(const char* at) const {
    while (at < end_ && (*at == '\r' || *at == '\n')) ++at;
    return at;
  }
  /// \s+(?!\S)|\s+ for the run of spaces at `at`: all of it at the end of the text, else all but the last one,
  /// else that one.
  const char* spaces(const char* at) const {
    const char* const begin = at;
    const char* last = at;
    for (const char* next = at; at < end_; at = next) {
      if (!is_space(classify(at, next))) return last > begin ? last : at;
      last = at;
    }
    return end_;
  }

  const CharClass* classes_;
  const char* end_;
};

class Gpt2Scanner : public Scanner {
 public:
  using Scanner::Scanner;

  const char* operator()(const char* at) const {
    const char* next = at;
    CharClass kind = classify(at, next);
    if (*at == '\'') {
      if (const char* end = contraction(at)) return end;
    } else if (*at == ' ' && next < end_) {
      const char* after = next;
      const CharClass second = classify(next, after);
      if (!is_space(second)) {
        kind = second;
        next = after;
      }
    }
    if (!is_space(kind)) return skip(kind, next);
    return spaces(at);
  }

 private:
  const char* contraction(const char* at) const {
    if (end_ - at < 2) return nullptr;
    const char a = at[1];
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if (end_ - at < 3) return nullptr;
    const char b = at[2];
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? at + 3 : nullptr;
  }
};

template <int max_digits>
class Llama3Scanner : public Scanner {
 public:
  using Scanner::Scanner;

  const char* operator()(const char* at) const {
    const char* next = at;
    const CharClass kind = classify(at, next);
    if (kind == CharClass::letter) return skip(CharClass::letter, next);
    if (kind == CharClass::number) {
      for (int digits = 1; digits < max_digits && next < end_; ++digits) {
        const char* after = next;
        if (classify(next, after) != CharClass::number) break;
        next = after;
      }
      return next;
    }
    if (*at == '\'') {
      if (const char* end = contraction(at)) return end;
    }
    if (next < end_ && kind != CharClass::newline) {
      const char* after = next;
      const CharClass second = classify(next, after);
      if (second == CharClass::letter) return skip(CharClass::letter, after);
      if (kind == CharClass::other || (*at == ' ' && second == CharClass::other)) {
        return skip_newlines(skip(CharClass::other, next));
      }
    } else if (kind == CharClass::other) {
      return next;
    }
    // Spaces: \s*[\r\n]+ takes them up to the last CR or LF.
    const char* newline = nullptr;
    const char* run = at;
    const char* last = at;
    for (next = at; run < end_; run = next) {
      const CharClass k = classify(run, next);
      if (!is_space(k)) break;
      if (k == CharClass::newline) newline = next;
      last = run;
    }
    if (newline != nullptr) return newline;
    return run == end_ || last == at ? run : last;
  }

 private:
  const char* contraction(const char* at) const {
    constexpr char to_lower = 0x20;
    if (end_ - at < 2) return nullptr;
    const char a = static_cast<char>(at[1] | to_lower);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if (end_ - at < 3) return nullptr;
    if (at[1] == '\xC5' && at[2] == '\xBF') return at + 3;  // U+017F, the long s
    const char b = static_cast<char>(at[2] | to_lower);
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? at + 3 : nullptr;
  }
};

}  // namespace hysparse
