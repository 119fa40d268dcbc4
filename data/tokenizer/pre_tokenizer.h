/// Pre-tokenizers: text to words, each of which BPE encodes alone.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/regex.h"

namespace hysparse {

/// What becomes of the matches of a pattern and of what is between them.
enum class SplitBehavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };

/// One pre-tokenizer of a sequence.
struct SplitStep {
  enum class Kind { whole, gpt2, llama3, qwen, regex, literal, digits };
  Kind kind = Kind::whole;
  bool prefix_space = false;  ///< a space in front of a piece that has none, first
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;
  std::optional<Regex> regex;
  std::string literal;
};

/// Runs the steps one after the other, each on the pieces of the one before; `word` takes each piece of the
/// last.
void split_words(const std::vector<SplitStep>& steps, std::string_view text, Regex::Room& room,
                 const std::function<void(std::string_view)>& word);

}  // namespace hysparse
