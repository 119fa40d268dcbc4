/// Raw little-endian int32 ids, tokens.bin: one document, for evaluation.
#pragma once

#include <string>

#include "data/formats/token_array.h"
#include "data/token_dataset.h"

namespace hysparse {

class RawTokenFile final : public TokenDataset {
 public:
  /// Throws Error when the size is not a positive multiple of 4.
  explicit RawTokenFile(const std::string& path, const OpenTokensOptions& options = {});

  const std::string& path() const override { return path_; }
  TokenFormat format() const override { return TokenFormat::raw; }
  const TokenFileInfo& info() const override { return info_; }
  TokenType type() const override { return TokenType::i32; }
  std::int64_t num_tokens() const override { return tokens_.size(); }
  std::int64_t num_documents() const override { return 1; }
  std::int64_t document_end(std::int64_t i) const override;
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    tokens_.read(begin, out, limit_, path_);
  }

 private:
  std::string path_;
  TokenFileInfo info_;
  std::int64_t limit_;
  MappedFile file_;
  TokenArray tokens_;
};

}  // namespace hysparse
