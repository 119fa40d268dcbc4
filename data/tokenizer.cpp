#include "data/tokenizer.h"

#include "core/error.h"
#include "core/random.h"

namespace hysparse {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr std::int32_t eos = 256;
  static constexpr std::int64_t vocab = 320;  // 257 up to a multiple of 64

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    const std::size_t begin = ids.size();
    ids.resize(begin + text.size());
    for (std::size_t i = 0; i < text.size(); ++i) ids[begin + i] = static_cast<unsigned char>(text[i]);
  }

  std::string decode(std::int32_t id) const override {
    if (id < 0 || id >= vocab)
      throw_error("token id {} is outside the byte tokenizer's vocabulary 0..{}", id, vocab - 1);
    if (id < eos) return std::string(1, static_cast<char>(id));
    return id == eos ? "<|endoftext|>" : "";
  }

  std::int64_t vocab_size() const override { return vocab; }
  std::int32_t eos_id() const override { return eos; }
  std::string name() const override { return "byte"; }
  std::string hash() const override {
    return fmt::format("{:016x}", hash_name("byte: 0..255 bytes, 256 <|endoftext|>, 257..319 padding"));
  }
};

}  // namespace

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  encode(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += decode(id);
  return text;
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name) {
  if (name == "byte") return std::make_unique<ByteTokenizer>();
  if (name.ends_with(".json")) {
    throw_error("tokenizer {}: tokenizer.json files are not supported by this version; available: byte", name);
  }
  throw_error("tokenizer {}: unknown; available: byte", name);
}

}  // namespace hysparse
