/// Token ids to valid UTF-8, a token at a time: bytes of a sequence that is not complete yet are held back, and
/// what cannot become a sequence is replaced by U+FFFD, one for each maximal invalid part (as Unicode
/// recommends, and as Python's errors="replace" does).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "data/tokenizer.h"

namespace hysparse {

class StreamDecoder {
 public:
  /// `tokenizer` must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// The text that `id` completes; maybe none.
  std::string push(std::int32_t id) { return push_bytes(tokenizer_.decode(id)); }
  std::string push_bytes(std::string_view bytes);
  /// At the end: U+FFFD for an incomplete sequence held back, else nothing.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string held_;  // a prefix of one well-formed sequence
};

}  // namespace hysparse
