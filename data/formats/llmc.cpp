#include "data/formats/llmc.h"

#include "core/error.h"

namespace hysparse {
namespace {

constexpr std::int32_t gpt2_eot = 50256, llama3_bot = 128000;

template <class T>
void find_ends(const std::byte* ids, std::int64_t count, std::int64_t eos, bool eos_ends,
               std::vector<std::int64_t>& ends) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (static_cast<std::int64_t>(load_element<T>(ids, i)) != eos) continue;
    if (eos_ends) ends.push_back(i + 1);
    if (!eos_ends && i > 0) ends.push_back(i);
  }
  if (count > 0 && (ends.empty() || ends.back() != count)) ends.push_back(count);
}

}  // namespace

bool is_llmc(std::span<const std::byte> head) {
  if (head.size() < 8) return false;
  const auto magic = load_element<std::int32_t>(head.data(), 0),
             version = load_element<std::int32_t>(head.data(), 1);
  return (magic == llmc_magic_u16 && version == llmc_version_u16) ||
         (magic == llmc_magic_u32 && version == llmc_version_u32);
}

LlmcTokens::LlmcTokens(std::span<const std::byte> file, const std::string& path) {
  if (!is_llmc(file)) throw_error("{}: not an llm.c token file", path);
  const auto bytes = static_cast<std::int64_t>(file.size());
  if (bytes < llmc_header_bytes) {
    throw_error("{}: truncated: {} bytes, the header alone has {}", path, bytes, llmc_header_bytes);
  }
  const auto header = [&](int i) { return load_element<std::int32_t>(file.data(), i); };
  const bool wide = header(0) == llmc_magic_u32;
  const TokenType type = wide ? TokenType::u32 : TokenType::u16;
  const std::int64_t count = header(2), room = bytes - llmc_header_bytes;
  if (count < 0 || count * token_type_size(type) != room) {
    throw_error("{}: the header says {} ids of {} bytes, but {} bytes follow it (truncated?)", path, count,
                token_type_size(type), room);
  }
  tokens_ = TokenArray(file.data() + llmc_header_bytes, count, type);

  const bool ours = header(8) == llmc_tag;
  eos_id_ = ours ? header(9) : wide ? llama3_bot : gpt2_eot;
  vocab_size_ = ours ? header(10) : 0;
  if (ours && (vocab_size_ < 1 || eos_id_ < 0 || eos_id_ >= vocab_size_)) {
    throw_error("{}: the header says eos_id {} and vocab_size {}", path, eos_id_, vocab_size_);
  }
  const std::byte* ids = file.data() + llmc_header_bytes;
  if (wide) {
    find_ends<std::uint32_t>(ids, count, eos_id_, ours, document_ends_);
  } else {
    find_ends<std::uint16_t>(ids, count, eos_id_, ours, document_ends_);
  }
}

LlmcDataset::LlmcDataset(const std::string& path, const OpenTokensOptions& options)
    : path_(path), file_(path), content_(file_.span(), path) {
  info_.vocab_size = content_.vocab_size();
  info_.eos_id = content_.eos_id();
  limit_ = info_.vocab_size > 0 ? info_.vocab_size : options.vocab_size;
}

std::int64_t LlmcDataset::document_end(std::int64_t i) const {
  HYSPARSE_CHECK(i >= 0 && i < num_documents(), "document {} of {}", i, num_documents());
  return content_.document_ends()[static_cast<std::size_t>(i)];
}

}  // namespace hysparse
