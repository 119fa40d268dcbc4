/// tokenizer.json files of the Hugging Face tokenizers package: what is in them, checked.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/pre_tokenizer.h"

namespace hysparse {

struct TokenizerJson {
  BpeModel model;
  std::vector<AddedToken> added;
  bool nfc = false;
  std::vector<SplitStep> steps;
};

constexpr std::int64_t max_tokenizer_json_bytes = 64 << 20;

/// Byte-level BPE: model BPE; normalizer null, NFC or a Sequence of those; pre-tokenizer ByteLevel, Split,
/// Digits or a Sequence of those with ByteLevel in it; decoder ByteLevel or null. Post-processor, truncation
/// and padding are passed over: they do not concern text without special tokens around it. `name` begins the
/// messages. Throws Error for everything else and for damage: ids or keys that appear twice, merges of what is
/// no token, ...
TokenizerJson read_tokenizer_json(std::string_view text, const std::string& name);

}  // namespace hysparse
