#include "data/token_file.h"

#include <limits>

#include "core/error.h"
#include "core/plain_hdf5.h"

namespace hysparse {
namespace {

Hdf5DatasetInfo one_dim(const PlainHdf5& file, const std::string& name) {
  const Hdf5DatasetInfo info = file.info(name);
  if (info.dims.size() != 1)
    throw_error("{}: dataset {} has {} dims, expected 1", file.path(), name, info.dims.size());
  return info;
}

TokenFileInfo read_info(const PlainHdf5& file) {
  TokenFileInfo info;
  info.tokenizer = file.string_attribute("tokenizer");
  info.tokenizer_hash = file.string_attribute("tokenizer_hash");
  info.vocab_size = file.i64_attribute("vocab_size");
  const std::int64_t eos_id = file.i64_attribute("eos_id");
  info.command = file.string_attribute("command");
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (info.vocab_size < 1 || info.vocab_size > most) {
    throw_error("{}: attribute vocab_size is {}, allowed 1..{}", file.path(), info.vocab_size, most);
  }
  if (eos_id < 0 || eos_id >= info.vocab_size) {
    throw_error("{}: attribute eos_id is {}, allowed 0..{} (vocab_size is {})", file.path(), eos_id,
                info.vocab_size - 1, info.vocab_size);
  }
  info.eos_id = static_cast<std::int32_t>(eos_id);
  return info;
}

}  // namespace

TokenFile::TokenFile(const std::string& path) : path_(path), file_(path) {
  const PlainHdf5 file(file_.span(), path);
  if (!file.has_dataset("tokens") || !file.has_dataset("doc_ends")) {
    throw_error("{}: not a token file: it has no dataset {} (hysparse prepare makes one)", path,
                file.has_dataset("tokens") ? "doc_ends" : "tokens");
  }
  const Hdf5DatasetInfo tokens = one_dim(file, "tokens"), doc_ends = one_dim(file, "doc_ends");
  if (tokens.type != Hdf5Type::u16 && tokens.type != Hdf5Type::u32) {
    throw_error("{}: dataset tokens holds {}, expected u16 or u32", path, hdf5_type_name(tokens.type));
  }
  if (doc_ends.type != Hdf5Type::u64) {
    throw_error("{}: dataset doc_ends holds {}, expected u64", path, hdf5_type_name(doc_ends.type));
  }
  info_ = read_info(file);
  const std::int64_t num_tokens = tokens.numel();
  num_documents_ = doc_ends.numel();
  if (num_tokens == 0 || num_documents_ == 0) throw_error("{}: has no tokens", path);

  tokens_ = TokenArray(file_.data() + tokens.offset_bytes, num_tokens,
                       tokens.type == Hdf5Type::u32 ? TokenType::u32 : TokenType::u16);
  doc_ends_ = file_.data() + doc_ends.offset_bytes;

  std::uint64_t previous = 0;
  for (std::int64_t i = 0; i < num_documents_; ++i) {
    const auto end = load_element<std::uint64_t>(doc_ends_, i);
    if (end <= previous) throw_error("{}: doc_ends[{}] is {} after {}: not increasing", path, i, end, previous);
    if (end > static_cast<std::uint64_t>(num_tokens)) {
      throw_error("{}: doc_ends[{}] is {}, past the {} tokens", path, i, end, num_tokens);
    }
    previous = end;
  }
  if (previous != static_cast<std::uint64_t>(num_tokens)) {
    throw_error("{}: the last document ends at {}, but there are {} tokens", path, previous, num_tokens);
  }
}

std::int64_t TokenFile::document_end(std::int64_t i) const {
  HYSPARSE_CHECK(i >= 0 && i < num_documents_, "document {} of {}", i, num_documents_);
  return load_element<std::int64_t>(doc_ends_, i);
}

}  // namespace hysparse
