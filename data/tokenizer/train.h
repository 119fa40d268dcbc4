/// Training of byte-level BPE tokenizers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/write_json.h"

namespace hysparse {

/// How often each word comes.
class WordCounts {
 public:
  /// `style`: gpt2 | llama3 | qwen, which tells what a word is.
  explicit WordCounts(std::string style) : style_(std::move(style)) {}

  /// Counts the words of a text.
  void add(std::string_view text);
  void add(const WordCounts& other);
  /// By the bytes of the word.
  std::vector<std::pair<std::string, std::int64_t>> sorted() const;
  const std::string& style() const { return style_; }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::string style_;
  std::string normalized_;
  std::unordered_map<std::string, std::int64_t, Hash, std::equal_to<>> counts_;
};

/// Cuts a text into pieces of about `bytes` at line ends where a letter begins the next line: no word of any
/// style crosses such a cut.
std::vector<std::string_view> cut_for_counting(std::string_view text, std::size_t bytes);

/// The special tokens of a style, the end of documents first.
std::vector<std::string> special_tokens_of(const std::string& style);

/// Adds the most frequent pair of neighbours as a token (of equals that of the lowest ids) until there are
/// `vocab_size` tokens, special ones included, or no pair comes twice. The first 256 tokens are the bytes, in
/// the order of the byte alphabet. A function of the counts alone. `progress` is told the number of tokens, now
/// and then.
NewTokenizer train_bpe(const WordCounts& words, std::int64_t vocab_size,
                       const std::function<void(std::int64_t)>& progress = {});

}  // namespace hysparse
