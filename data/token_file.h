/// The HDF5 token dataset. Layout of the file:
///   tokens    u16 (vocab_size <= 65536) or u32, 1-D, contiguous and unfiltered: mapped by its offset in the
///   file doc_ends  u64, 1-D: end of each document in tokens, strictly increasing; the last is the number of
///   tokens attributes tokenizer, tokenizer_hash, command (strings), vocab_size, eos_id (integers)
/// Every document ends with eos_id.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/token_stream.h"

namespace hysparse {

struct TokenFileInfo {
  std::string tokenizer;       // Tokenizer::name()
  std::string tokenizer_hash;  // Tokenizer::hash()
  std::int64_t vocab_size = 0;
  std::int32_t eos_id = 0;
  std::string command;  // that made the file
};

/// Reads one; checks all but the ids at once, the ids as they are read (check_ids() reads all). Throws Error,
/// naming the file and what is wrong: missing, foreign, truncated, damaged, wrong element types, no tokens,
/// doc_ends not increasing or not ending at the number of tokens, vocab_size or eos_id out of range.
class TokenFile final : public TokenStream {
 public:
  explicit TokenFile(const std::string& path);

  const std::string& path() const override { return path_; }
  const TokenFileInfo& info() const { return info_; }
  std::int64_t num_tokens() const override { return num_tokens_; }
  std::int64_t num_documents() const { return num_documents_; }
  /// Document i is tokens [document_begin(i), document_end(i)).
  std::int64_t document_begin(std::int64_t i) const { return i == 0 ? 0 : document_end(i - 1); }
  std::int64_t document_end(std::int64_t i) const;
  void read(std::int64_t begin, std::span<std::int32_t> out) const override;

 private:
  std::string path_;
  TokenFileInfo info_;
  MappedFile file_;
  std::int64_t num_tokens_ = 0;
  std::int64_t num_documents_ = 0;
  bool wide_ = false;  // u32 tokens
  const std::byte* tokens_ = nullptr;
  const std::byte* doc_ends_ = nullptr;
};

}  // namespace hysparse
