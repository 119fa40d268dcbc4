#include "data/stream_decoder.h"

namespace hysparse {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";

/// Length of the sequence that this byte begins; 0 when none may begin with it.
std::size_t sequence_length(unsigned char first) {
  if (first < 0x80) return 1;
  if (first < 0xC2) return 0;  // continuation bytes, overlong forms
  if (first < 0xE0) return 2;
  if (first < 0xF0) return 3;
  return first < 0xF5 ? 4 : 0;
}

/// Whether `byte` may be the second, third, ... byte of a sequence (Unicode table 3-7: well-formed byte
/// sequences).
bool continues(unsigned char first, std::size_t position, unsigned char byte) {
  unsigned char low = 0x80, high = 0xBF;
  if (position == 1) {
    if (first == 0xE0) low = 0xA0;   // no overlong forms
    if (first == 0xED) high = 0x9F;  // no surrogates
    if (first == 0xF0) low = 0x90;   // no overlong forms
    if (first == 0xF4) high = 0x8F;  // nothing above U+10FFFF
  }
  return low <= byte && byte <= high;
}

}  // namespace

std::string StreamDecoder::push_bytes(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (!held_.empty()) {
      const auto first = static_cast<unsigned char>(held_[0]);
      if (continues(first, held_.size(), byte)) {
        held_ += c;
        if (held_.size() == sequence_length(first)) {
          text += held_;
          held_.clear();
        }
        continue;
      }
      text += replacement;
      held_.clear();
    }
    const std::size_t length = sequence_length(byte);
    if (length == 0) {
      text += replacement;
    } else if (length == 1) {
      text += c;
    } else {
      held_ = c;
    }
  }
  return text;
}

std::string StreamDecoder::finish() {
  if (held_.empty()) return {};
  held_.clear();
  return std::string(replacement);
}

}  // namespace hysparse
