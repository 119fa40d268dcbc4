// A tokenizer.json, and a text encoded and decoded with it.
#include <memory>
#include <string>
#include <vector>

#include "data/stream_decoder.h"
#include "data/tokenizer.h"
#include "tests/fuzz/support.h"
#include "tests/fuzz/targets.h"

namespace hysparse::fuzz {
namespace {

constexpr std::string_view plain_text =
    "Don't stop: 12345 caf\xc3\xa9 e\xcc\x81 \xf0\x9f\x98\x80\r\n\n  <eos>\ta=b\xff\xe2\x82 end";

void use(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<std::int32_t> ids = tokenizer.encode(text);
  StreamDecoder decoder(tokenizer);
  std::string streamed;
  for (const std::int32_t id : ids) {
    HYSPARSE_CHECK(id >= 0 && id < tokenizer.vocab_size(), "id {} of {}", id, tokenizer.vocab_size());
    streamed += decoder.push(id);
  }
  streamed += decoder.finish();
  const std::string bytes = tokenizer.decode(ids);
  HYSPARSE_CHECK(streamed.size() >= bytes.size() || bytes.empty() || !streamed.empty(), "{} of {} bytes",
                 streamed.size(), bytes.size());
}

}  // namespace

/// The file, then after a NUL byte the text (a text of ours where there is none).
void tokenizer_json(std::string_view input) {
  const std::size_t end = input.find('\0');
  const std::string_view text = end == std::string_view::npos ? plain_text : input.substr(end + 1);
  accept_or_refuse([&] {
    const auto tokenizer = parse_tokenizer_json(input.substr(0, end), "tokenizer.json");
    HYSPARSE_CHECK(tokenizer->eos_id() >= 0 && tokenizer->eos_id() < tokenizer->vocab_size(), "eos {} of {}",
                   tokenizer->eos_id(), tokenizer->vocab_size());
    HYSPARSE_CHECK(parse_tokenizer_json(tokenizer->json(), "again")->hash() == tokenizer->hash(), "{}",
                   tokenizer->hash());
    accept_or_refuse([&] { use(*tokenizer, text); });  // a regex may give up
  });
}

}  // namespace hysparse::fuzz
