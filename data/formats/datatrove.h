/// datatrove's tokenized files: NAME.ds holds u16 or u32 ids, NAME.ds.index the end of each document in ids
/// (u64). NAME.ds.metadata, text and not always there: "tokenizer|bytes of an id", the number of ids, the same
/// for people.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "data/formats/token_array.h"
#include "data/token_dataset.h"

namespace hysparse {

/// An index in memory: a view, nothing is copied.
class DatatroveIndex {
 public:
  DatatroveIndex() = default;
  /// `index`, which must outlive the view, of `ids_bytes` bytes of ids. `metadata` is "" when there is none;
  /// the width of the ids follows from the sizes, and the metadata must agree. Throws Error, beginning with
  /// `path`, for anything that does not fit.
  DatatroveIndex(std::span<const std::byte> index, std::string_view metadata, std::int64_t ids_bytes,
                 const std::string& path);

  TokenType type() const { return type_; }
  /// As the metadata name it; "" when they do not.
  const std::string& tokenizer() const { return tokenizer_; }
  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_documents() const { return num_documents_; }
  std::int64_t document_end(std::int64_t i) const;

 private:
  TokenType type_ = TokenType::u16;
  std::string tokenizer_;
  std::int64_t num_tokens_ = 0, num_documents_ = 0;
  const std::byte* ends_ = nullptr;
};

class DatatroveDataset final : public TokenDataset {
 public:
  /// `path` is NAME.ds.
  DatatroveDataset(const std::string& path, const OpenTokensOptions& options);

  const std::string& path() const override { return path_; }
  TokenFormat format() const override { return TokenFormat::datatrove; }
  const TokenFileInfo& info() const override { return info_; }
  TokenType type() const override { return index_.type(); }
  std::int64_t num_tokens() const override { return index_.num_tokens(); }
  std::int64_t num_documents() const override { return index_.num_documents(); }
  std::int64_t document_end(std::int64_t i) const override { return index_.document_end(i); }
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    tokens_.read(begin, out, limit_, path_);
  }

 private:
  std::string path_;
  TokenFileInfo info_;
  std::int64_t limit_;
  MappedFile index_file_, ids_file_;
  DatatroveIndex index_;
  TokenArray tokens_;
};

}  // namespace hysparse
