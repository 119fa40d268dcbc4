/// llm.c's token files: 256 x i32 header (magic, version, number of ids, the rest unused), then the ids.
/// Magic 20240520, version 1: u16 (GPT-2); magic 20240801, version 7: u32 (Llama 3).
///
/// The header says nothing of documents, so they are found by their end-of-text token. llm.c puts it in front
/// of each document: 50256 for u16, 128000 for u32. Files that hysparse writes say in the unused part that it
/// ends each document, and which it is: header[8] = "HYSP" (0x50535948), [9] eos_id, [10] vocab_size.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/formats/token_array.h"
#include "data/token_dataset.h"

namespace hysparse {

constexpr std::int64_t llmc_header_bytes = 1024;
constexpr std::int32_t llmc_magic_u16 = 20240520, llmc_version_u16 = 1;
constexpr std::int32_t llmc_magic_u32 = 20240801, llmc_version_u32 = 7;
constexpr std::int32_t llmc_tag = 0x50535948;

/// The first bytes of such a file.
bool is_llmc(std::span<const std::byte> head);

/// A file in memory; looks through all ids for the ends of documents, and keeps those.
class LlmcTokens {
 public:
  LlmcTokens() = default;
  /// `file` must outlive the view. Throws Error, beginning with `path`, for anything that does not fit.
  LlmcTokens(std::span<const std::byte> file, const std::string& path);

  const TokenArray& tokens() const { return tokens_; }
  const std::vector<std::int64_t>& document_ends() const { return document_ends_; }
  std::int32_t eos_id() const { return eos_id_; }
  /// 0: the file does not say.
  std::int64_t vocab_size() const { return vocab_size_; }

 private:
  TokenArray tokens_;
  std::vector<std::int64_t> document_ends_;
  std::int32_t eos_id_ = -1;
  std::int64_t vocab_size_ = 0;
};

class LlmcDataset final : public TokenDataset {
 public:
  LlmcDataset(const std::string& path, const OpenTokensOptions& options);

  const std::string& path() const override { return path_; }
  TokenFormat format() const override { return TokenFormat::llmc; }
  const TokenFileInfo& info() const override { return info_; }
  TokenType type() const override { return content_.tokens().type(); }
  std::int64_t num_tokens() const override { return content_.tokens().size(); }
  std::int64_t num_documents() const override {
    return static_cast<std::int64_t>(content_.document_ends().size());
  }
  std::int64_t document_end(std::int64_t i) const override;
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    content_.tokens().read(begin, out, limit_, path_);
  }

 private:
  std::string path_;
  TokenFileInfo info_;
  std::int64_t limit_;
  MappedFile file_;
  LlmcTokens content_;
};

}  // namespace hysparse
