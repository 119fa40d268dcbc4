#include "data/formats/datatrove.h"

#include <charconv>
#include <filesystem>
#include <optional>

#include "core/error.h"

namespace hysparse {
namespace {

struct Metadata {
  std::string tokenizer;
  std::int64_t id_bytes = 0;
};

/// Nothing when the text is not of that shape: people may put their own there.
std::optional<Metadata> parse_metadata(std::string_view text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  const std::size_t bar = line.rfind('|');
  if (bar == std::string_view::npos) return std::nullopt;
  Metadata metadata{std::string(line.substr(0, bar)), 0};
  const char* end = line.data() + line.size();
  const auto [stop, error] = std::from_chars(line.data() + bar + 1, end, metadata.id_bytes);
  if (error != std::errc{} || stop != end) return std::nullopt;
  return metadata;
}

std::string read_metadata(const std::string& path) {
  constexpr std::int64_t most_bytes = 64 << 10;
  if (std::error_code error; !std::filesystem::is_regular_file(path, error)) return {};
  const MappedFile file(path);
  if (file.bytes() > most_bytes) throw_error("{}: {} bytes, expected three short lines", path, file.bytes());
  return {reinterpret_cast<const char*>(file.data()), static_cast<std::size_t>(file.bytes())};
}

}  // namespace

DatatroveIndex::DatatroveIndex(std::span<const std::byte> index, std::string_view metadata,
                               std::int64_t ids_bytes, const std::string& path) {
  const auto bytes = static_cast<std::int64_t>(index.size());
  if (bytes % 8 != 0) throw_error("{}: {} bytes are not whole u64 document ends", path, bytes);
  num_documents_ = bytes / 8;
  ends_ = index.data();
  std::uint64_t previous = 0;
  for (std::int64_t i = 0; i < num_documents_; ++i) {
    const auto end = load_element<std::uint64_t>(ends_, i);
    if (end < previous)
      throw_error("{}: document {} ends at {}, before it begins at {}", path, i, end, previous);
    if (end > static_cast<std::uint64_t>(ids_bytes)) {
      throw_error("{}: document {} ends at id {}, past the {} bytes of the .ds (truncated?)", path, i, end,
                  ids_bytes);
    }
    previous = end;
  }
  num_tokens_ = static_cast<std::int64_t>(previous);
  if (num_tokens_ * 2 == ids_bytes && num_tokens_ > 0) {
    type_ = TokenType::u16;
  } else if (num_tokens_ <= ids_bytes / 4 && num_tokens_ * 4 == ids_bytes) {
    type_ = TokenType::u32;
  } else {
    throw_error("{}: the last document ends at id {}, but the .ds has {} bytes: neither 2 nor 4 an id", path,
                num_tokens_, ids_bytes);
  }
  if (const auto found = parse_metadata(metadata)) {
    // What datatrove writes for a tokenizer that it was not told.
    if (!found->tokenizer.starts_with("Unknown Tokenizer|")) tokenizer_ = found->tokenizer;
    if (num_tokens_ > 0 && found->id_bytes != token_type_size(type_)) {
      throw_error("{}: ids of {} bytes by the index, of {} by the metadata", path, token_type_size(type_),
                  found->id_bytes);
    }
  }
}

std::int64_t DatatroveIndex::document_end(std::int64_t i) const {
  HYSPARSE_CHECK(i >= 0 && i < num_documents_, "document {} of {}", i, num_documents_);
  return load_element<std::int64_t>(ends_, i);
}

DatatroveDataset::DatatroveDataset(const std::string& path, const OpenTokensOptions& options)
    : path_(path),
      limit_(options.vocab_size),
      index_file_(path + ".index"),
      ids_file_(path),
      index_(index_file_.span(), read_metadata(path + ".metadata"), ids_file_.bytes(), path + ".index"),
      tokens_(ids_file_.data(), index_.num_tokens(), index_.type()) {
  info_.tokenizer = index_.tokenizer();
  info_.eos_id = -1;
}

}  // namespace hysparse
