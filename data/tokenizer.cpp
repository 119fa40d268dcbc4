#include "data/tokenizer.h"

#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/byte_tokenizer.h"
#include "data/tokenizer/tokenizer_files.h"

namespace hysparse {

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

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name, const std::string& eos) {
  if (name == "byte") return std::make_unique<ByteTokenizer>();
  const std::string path = find_tokenizer_json(name);
  return std::make_unique<BpeTokenizer>(read_limited(path, max_tokenizer_json_bytes), path,
                                        eos.empty() ? eos_beside(path) : EosChoice{eos, {}});
}

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& name,
                                                const std::string& eos) {
  return std::make_unique<BpeTokenizer>(std::string(text), name, EosChoice{eos, {}});
}

}  // namespace hysparse
