/// Text to token ids and back.
///
/// Byte tokenizer: ids 0..255 are the bytes, 256 is <|endoftext|>, 257..319 are padding, so that the vocabulary
/// is a multiple of 64.
///
/// tokenizer.json: byte-level BPE with the ids of the Hugging Face tokenizers package (docs/tokenizers.md).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hysparse {

struct SpecialToken {
  std::string content;
  std::int32_t id = 0;
};

/// May be used by many threads at a time.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Appends the ids of `text`, which may hold any bytes: all of `text` is one document. The byte tokenizer
  /// never gives a special token; a tokenizer.json finds the added tokens that text spells, as the package
  /// does.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  /// The bytes of one id: the spelling of a special token, nothing for padding. Throws Error for an id outside
  /// the vocabulary. An id may stand for part of a UTF-8 sequence: see StreamDecoder.
  virtual std::string decode(std::int32_t id) const = 0;

  /// Number of ids, padding included: the model's vocab_size must be at least this.
  virtual std::int64_t vocab_size() const = 0;
  /// Ends every document.
  virtual std::int32_t eos_id() const = 0;
  /// What --tokenizer names: "byte", or the path of the tokenizer.json.
  virtual std::string name() const = 0;
  /// 16 hexadecimal digits; equal hashes mean equal ids for every text.
  virtual std::string hash() const = 0;
  /// The tokenizer.json, to travel with checkpoints and exports. A tokenizer made from it has this hash (but
  /// for the byte tokenizer, whose file has its ids and no padding).
  virtual std::string json() const = 0;
  /// Those that the file calls special, eos among them.
  virtual std::vector<SpecialToken> special_tokens() const = 0;

  std::vector<std::int32_t> encode(std::string_view text) const;
  std::string decode(std::span<const std::int32_t> ids) const;
};

/// "byte", a tokenizer.json, or a directory that holds one. `eos` names the token that ends a document; without
/// it that is "eos_token" of a tokenizer_config.json beside the file, or "eos_token_id" of
/// generation_config.json or config.json there, or a well-known name (<|endoftext|>, </s>, ...). Throws Error
/// when there is none, or when the file is damaged or of a kind that is not supported.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name, const std::string& eos = "");

/// A tokenizer.json from memory; `name` stands in messages and is name(). Throws Error as make_tokenizer does.
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& name,
                                                const std::string& eos = "");

}  // namespace hysparse
