#include "data/tokenizer/byte_tokenizer.h"

#include "core/error.h"
#include "core/random.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/write_json.h"

namespace hysparse {
namespace {

constexpr const char* eos_token = "<|endoftext|>";

}  // namespace

void ByteTokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  const std::size_t begin = ids.size();
  ids.resize(begin + text.size());
  for (std::size_t i = 0; i < text.size(); ++i) ids[begin + i] = static_cast<unsigned char>(text[i]);
}

std::string ByteTokenizer::decode(std::int32_t id) const {
  if (id < 0 || id >= vocab)
    throw_error("token id {} is outside the byte tokenizer's vocabulary 0..{}", id, vocab - 1);
  if (id < eos) return std::string(1, static_cast<char>(id));
  return id == eos ? eos_token : "";
}

std::string ByteTokenizer::hash() const {
  return fmt::format("{:016x}", hash_name("byte: 0..255 bytes, 256 <|endoftext|>, 257..319 padding"));
}

/// Byte-level BPE without merges and without splitting. <|endoftext|> is in the vocabulary, where no text gives
/// it, and no added token, which text would.
std::string ByteTokenizer::json() const {
  NewTokenizer tokenizer;
  for (int byte = 0; byte < eos; ++byte)
    tokenizer.vocab.push_back(token_of_bytes(std::string(1, static_cast<char>(byte))));
  tokenizer.vocab.emplace_back(eos_token);
  return tokenizer_json_text(tokenizer);
}

std::vector<SpecialToken> ByteTokenizer::special_tokens() const {
  return {{eos_token, eos}};
}

}  // namespace hysparse
