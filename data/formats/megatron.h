/// Megatron-LM's indexed dataset: NAME.bin holds the ids of all sequences, NAME.idx, little-endian:
///
///   "MMIDIDX\0\0"  u64 version 1   u8 type of the ids   u64 S sequences   u64 D + 1   (34 bytes)
///   i32 lengths[S]   i64 pointers[S]: where each begins in the .bin, in bytes
///   i64 documents[D + 1]: document d is sequences [documents[d], documents[d + 1])   i8 modes[S] or nothing
///
/// Types: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 6 f64, 7 f32, 8 u16.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "data/formats/token_array.h"
#include "data/token_dataset.h"

namespace hysparse {

/// The first bytes of an .idx.
bool is_megatron_index(std::span<const std::byte> head);

/// An .idx in memory: a view, nothing is copied.
class MegatronIndex {
 public:
  MegatronIndex() = default;
  /// `index`, which must outlive the view, against a .bin of `bin_bytes`. Sequences must follow each other in
  /// the .bin without gaps, as Megatron writes them. Throws Error, beginning with `path`, for anything that
  /// does not fit.
  MegatronIndex(std::span<const std::byte> index, std::int64_t bin_bytes, const std::string& path);

  TokenType type() const { return type_; }
  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_documents() const { return num_documents_; }
  std::int64_t document_end(std::int64_t i) const;

 private:
  TokenType type_ = TokenType::u16;
  std::int64_t num_tokens_ = 0, num_sequences_ = 0, num_documents_ = 0;
  const std::byte* pointers_ = nullptr;
  const std::byte* documents_ = nullptr;
};

class MegatronDataset final : public TokenDataset {
 public:
  /// `prefix` + ".idx" and + ".bin". path() is the .idx.
  MegatronDataset(const std::string& prefix, const OpenTokensOptions& options);

  const std::string& path() const override { return path_; }
  TokenFormat format() const override { return TokenFormat::megatron; }
  const TokenFileInfo& info() const override { return info_; }
  TokenType type() const override { return index_.type(); }
  std::int64_t num_tokens() const override { return index_.num_tokens(); }
  std::int64_t num_documents() const override { return index_.num_documents(); }
  std::int64_t document_end(std::int64_t i) const override { return index_.document_end(i); }
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    tokens_.read(begin, out, limit_, bin_path_);
  }

 private:
  std::string path_, bin_path_;
  TokenFileInfo info_;
  std::int64_t limit_;
  MappedFile index_file_, bin_file_;
  MegatronIndex index_;
  TokenArray tokens_;
};

}  // namespace hysparse
