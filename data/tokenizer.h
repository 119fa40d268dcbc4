/// Text to token ids and back.
///
/// Byte tokenizer: ids 0..255 are the bytes, 256 is <|endoftext|>, 257..319 are padding, so that the vocabulary
/// is a multiple of 64.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hysparse {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Appends the ids of `text`, which may hold any bytes. Never gives a special token: text that spells one
  /// stays text.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  /// The bytes of one id: the spelling of a special token, nothing for padding. Throws Error for an id outside
  /// the vocabulary. An id may stand for part of a UTF-8 sequence: see StreamDecoder.
  virtual std::string decode(std::int32_t id) const = 0;

  /// Number of ids, padding included: the model's vocab_size must be at least this.
  virtual std::int64_t vocab_size() const = 0;
  /// Ends every document.
  virtual std::int32_t eos_id() const = 0;
  /// What --tokenizer names, "byte".
  virtual std::string name() const = 0;
  /// 16 hexadecimal digits; equal hashes mean equal ids for every text.
  virtual std::string hash() const = 0;

  std::vector<std::int32_t> encode(std::string_view text) const;
  std::string decode(std::span<const std::int32_t> ids) const;
};

/// The tokenizer of that name. Throws Error when there is none, naming those there are.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name);

}  // namespace hysparse
