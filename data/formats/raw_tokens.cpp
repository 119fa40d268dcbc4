#include "data/formats/raw_tokens.h"

#include "core/error.h"

namespace hysparse {

RawTokenFile::RawTokenFile(const std::string& path, const OpenTokensOptions& options)
    : path_(path), limit_(options.vocab_size), file_(path) {
  if (file_.bytes() == 0) throw_error("{}: empty file, expected int32 tokens", path);
  if (file_.bytes() % 4 != 0) {
    throw_error("{}: {} bytes are not whole int32 tokens (a multiple of 4 bytes)", path, file_.bytes());
  }
  tokens_ = TokenArray(file_.data(), file_.bytes() / 4, TokenType::i32);
  info_.eos_id = -1;
}

std::int64_t RawTokenFile::document_end(std::int64_t i) const {
  HYSPARSE_CHECK(i == 0, "document {} of 1", i);
  return num_tokens();
}

}  // namespace hysparse
