/// tokenizer.json files of our own.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace hysparse {

/// A byte-level BPE. Ids count on from 0: the vocabulary, then the special tokens.
struct NewTokenizer {
  std::vector<std::string> vocab;                           ///< in the byte alphabet
  std::vector<std::pair<std::string, std::string>> merges;  ///< of tokens in it
  std::vector<std::string> special;
  std::string style;  ///< gpt2 | llama3 | qwen: how text is split; empty: it is not
};

/// The file's text, as the tokenizers package lays it out.
std::string tokenizer_json_text(const NewTokenizer& tokenizer);

}  // namespace hysparse
