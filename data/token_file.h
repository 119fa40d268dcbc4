/// The HDF5 token dataset. Layout of the file:
///   tokens    u16 (vocab_size <= 65536) or u32, 1-D, contiguous and unfiltered: mapped by its offset in the
///   file doc_ends  u64, 1-D: end of each document in tokens, strictly increasing; the last is the number of
///   tokens attributes tokenizer, tokenizer_hash, command (strings), vocab_size, eos_id (integers)
/// Every document ends with eos_id.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/token_dataset.h"

namespace hysparse {

/// Reads one; checks all but the ids at once, the ids as they are read (check_ids() reads all). Throws Error,
/// naming the file and what is wrong: missing, foreign, truncated, damaged, wrong element types, no tokens,
/// doc_ends not increasing or not ending at the number of tokens, vocab_size or eos_id out of range.
class TokenFile final : public TokenDataset {
 public:
  explicit TokenFile(const std::string& path);

  const std::string& path() const override { return path_; }
  TokenFormat format() const override { return TokenFormat::hdf5; }
  const TokenFileInfo& info() const override { return info_; }
  TokenType type() const override { return tokens_.type(); }
  std::int64_t num_tokens() const override { return tokens_.size(); }
  std::int64_t num_documents() const override { return num_documents_; }
  std::int64_t document_end(std::int64_t i) const override;
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    tokens_.read(begin, out, info_.vocab_size, path_);
  }

 private:
  std::string path_;
  TokenFileInfo info_;
  MappedFile file_;
  std::int64_t num_documents_ = 0;
  TokenArray tokens_;
  const std::byte* doc_ends_ = nullptr;
};

}  // namespace hysparse
