/// The tokenizer of a tokenizer.json.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "data/tokenizer/tokenizer_files.h"
#include "data/tokenizer/tokenizer_json.h"

namespace hysparse {

/// Gives the ids that the tokenizers package gives without special tokens around the text (add_special_tokens =
/// False): added tokens that the text spells are found, special ones, too. Text may hold bytes that are no
/// UTF-8; they count as symbols.
class BpeTokenizer final : public Tokenizer {
 public:
  /// `text` is the file's. Throws Error.
  BpeTokenizer(std::string text, const std::string& name, const EosChoice& eos);
  ~BpeTokenizer() override;

  using Tokenizer::decode;
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override;
  std::string decode(std::int32_t id) const override;
  std::int64_t vocab_size() const override { return std::ssize(ends_); }
  std::int32_t eos_id() const override { return eos_; }
  std::string name() const override { return name_; }
  std::string hash() const override { return hash_; }
  std::string json() const override { return text_; }
  std::vector<SpecialToken> special_tokens() const override;

 private:
  class Encoder;  // one thread's

  void fill_spellings(const TokenizerJson& parts);
  void choose_eos(const TokenizerJson& parts, const EosChoice& eos);
  std::unique_ptr<Encoder> take_encoder() const;
  void give_back(std::unique_ptr<Encoder> encoder) const;

  std::string text_, name_, hash_;
  bool nfc_ = false;
  std::vector<SplitStep> steps_;
  std::unique_ptr<const Bpe> bpe_;
  std::unique_ptr<const AddedTokenFinder> raw_, normalized_;
  std::vector<SpecialToken> special_;
  std::string spellings_;            // the bytes of all tokens, by id
  std::vector<std::uint32_t> ends_;  // where each ends
  std::int32_t eos_ = -1;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Encoder>> idle_;
};

}  // namespace hysparse
