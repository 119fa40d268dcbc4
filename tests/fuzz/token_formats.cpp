// Token files of other programs, from memory.
#include <algorithm>
#include <vector>

#include "data/formats/datatrove.h"
#include "data/formats/llmc.h"
#include "data/formats/megatron.h"
#include "tests/fuzz/support.h"
#include "tests/fuzz/targets.h"

namespace hysparse::fuzz {
namespace {

/// What TokenDataset promises of documents.
template <class Index>
void check_documents(const Index& index) {
  std::int64_t previous = 0;
  for (std::int64_t i = 0; i < index.num_documents(); ++i) {
    const std::int64_t end = index.document_end(i);
    HYSPARSE_CHECK(end >= previous && end <= index.num_tokens(), "document {}: {} after {}, {} tokens", i, end,
                   previous, index.num_tokens());
    previous = end;
  }
  HYSPARSE_CHECK(previous == index.num_tokens(), "documents end at {} of {}", previous, index.num_tokens());
}

/// Reads all ids of `count` in `ids`, which holds `bytes` of them.
void read_all(const std::vector<std::byte>& ids, std::int64_t count, TokenType type) {
  HYSPARSE_CHECK(count * token_type_size(type) == static_cast<std::int64_t>(ids.size()), "{} ids in {} bytes",
                 count, ids.size());
  const TokenArray tokens(ids.data(), count, type);
  std::vector<std::int32_t> out(static_cast<std::size_t>(count));
  for (const std::int64_t vocab_size : {0, 200}) {
    accept_or_refuse([&] { tokens.read(0, out, vocab_size, "fuzz.bin"); });
  }
}

/// `bytes` of ids: some of everything.
std::vector<std::byte> some_ids(std::size_t bytes) {
  std::vector<std::byte> ids(bytes);
  for (std::size_t i = 0; i < bytes; ++i)
    ids[i] = static_cast<std::byte>(i % 8 == 7 ? i / 8 : i % 2 == 0 ? i : 0);
  return ids;
}

}  // namespace

/// u16 bytes of the .bin, then the .idx.
void megatron_index(std::string_view input) {
  const auto bin_bytes = take<std::uint16_t>(input);
  accept_or_refuse([&] {
    const MegatronIndex index(as_bytes(input), bin_bytes, "fuzz.idx");
    check_documents(index);
    read_all(some_ids(bin_bytes), index.num_tokens(), index.type());
  });
}

/// u16 bytes of the .ds, u8 bytes of the metadata, the metadata, then the .ds.index.
void datatrove_index(std::string_view input) {
  const auto ids_bytes = take<std::uint16_t>(input);
  const std::size_t metadata_bytes = std::min<std::size_t>(take<std::uint8_t>(input), input.size());
  const std::string_view metadata = input.substr(0, metadata_bytes);
  input.remove_prefix(metadata_bytes);
  accept_or_refuse([&] {
    const DatatroveIndex index(as_bytes(input), metadata, ids_bytes, "fuzz.ds.index");
    check_documents(index);
    read_all(some_ids(ids_bytes), index.num_tokens(), index.type());
  });
}

void llmc_tokens(std::string_view input) {
  accept_or_refuse([&] {
    const LlmcTokens file(as_bytes(input), "fuzz.bin");
    std::int64_t previous = 0;
    for (const std::int64_t end : file.document_ends()) {
      HYSPARSE_CHECK(end >= previous, "{} after {}", end, previous);
      previous = end;
    }
    HYSPARSE_CHECK(previous == file.tokens().size(), "documents end at {} of {}", previous,
                   file.tokens().size());
    std::vector<std::int32_t> out(static_cast<std::size_t>(file.tokens().size()));
    file.tokens().read(0, out, file.vocab_size(), "fuzz.bin");
  });
}

}  // namespace hysparse::fuzz
