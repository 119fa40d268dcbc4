/// The tokenizer that is built in: see data/tokenizer.h.
#pragma once

#include "data/tokenizer.h"

namespace hysparse {

class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr std::int32_t eos = 256;
  static constexpr std::int64_t vocab = 320;  // 257 up to a multiple of 64

  using Tokenizer::decode;
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override;
  std::string decode(std::int32_t id) const override;
  std::int64_t vocab_size() const override { return vocab; }
  std::int32_t eos_id() const override { return eos; }
  std::string name() const override { return "byte"; }
  std::string hash() const override;
  std::string json() const override;
  std::vector<SpecialToken> special_tokens() const override;
};

}  // namespace hysparse
