#include "data/formats/megatron.h"

#include <algorithm>
#include <string_view>

#include "core/error.h"

namespace hysparse {
namespace {

constexpr std::string_view magic("MMIDIDX\0\0", 9);
constexpr std::int64_t header_bytes = 9 + 8 + 1 + 8 + 8;

TokenType type_of_code(int code, const std::string& path) {
  switch (code) {
    case 1:
      return TokenType::u8;
    case 2:
      return TokenType::i8;
    case 3:
      return TokenType::i16;
    case 4:
      return TokenType::i32;
    case 5:
      return TokenType::i64;
    case 6:
    case 7:
      throw_error("{}: holds {}, which are no token ids", path, code == 6 ? "f64" : "f32");
    case 8:
      return TokenType::u16;
    default:
      throw_error("{}: type code {} is not known (1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16)", path, code);
  }
}

}  // namespace

bool is_megatron_index(std::span<const std::byte> head) {
  return head.size() >= magic.size() && std::memcmp(head.data(), magic.data(), magic.size()) == 0;
}

MegatronIndex::MegatronIndex(std::span<const std::byte> index, std::int64_t bin_bytes,
                             const std::string& path) {
  if (!is_megatron_index(index)) throw_error("{}: not a Megatron index: it does not begin with MMIDIDX", path);
  const auto bytes = static_cast<std::int64_t>(index.size());
  if (bytes < header_bytes)
    throw_error("{}: truncated: {} bytes, the header alone has {}", path, bytes, header_bytes);
  const std::byte* p = index.data();
  const auto version = load_element<std::uint64_t>(p + 9, 0);
  if (version != 1) throw_error("{}: version {}, known is 1", path, version);
  type_ = type_of_code(load_element<std::uint8_t>(p + 17, 0), path);
  const auto sequences = load_element<std::uint64_t>(p + 18, 0),
             bounds = load_element<std::uint64_t>(p + 26, 0);

  // In this order no product can overflow: each count is first held against the bytes there are.
  const auto room = static_cast<std::uint64_t>(bytes - header_bytes);
  if (sequences > room / 12 || bounds > (room - sequences * 12) / 8) {
    throw_error("{}: truncated or damaged: {} bytes cannot hold {} sequences and {} document bounds", path,
                bytes, sequences, bounds);
  }
  const std::uint64_t rest = room - sequences * 12 - bounds * 8;
  if (rest != 0 && rest != sequences) {  // a mode for each sequence may follow
    throw_error("{}: {} bytes are left over behind {} sequences and {} document bounds", path, rest, sequences,
                bounds);
  }
  if (bounds == 0) throw_error("{}: has no document bounds", path);
  num_sequences_ = static_cast<std::int64_t>(sequences);
  num_documents_ = static_cast<std::int64_t>(bounds) - 1;
  const std::byte* lengths = p + header_bytes;
  pointers_ = lengths + num_sequences_ * 4;
  documents_ = pointers_ + num_sequences_ * 8;

  const std::int64_t size = token_type_size(type_);
  std::int64_t offset = 0;
  for (std::int64_t i = 0; i < num_sequences_; ++i) {
    const auto length = load_element<std::int32_t>(lengths, i);
    if (length < 0) throw_error("{}: sequence {} has length {}", path, i, length);
    const auto pointer = load_element<std::int64_t>(pointers_, i);
    if (pointer != offset) {
      throw_error("{}: sequence {} begins at byte {}, expected {}, where the one before it ends", path, i,
                  pointer, offset);
    }
    // Less than 2^31 * 8 more than bin_bytes: far from overflow.
    offset += length * size;
    if (offset > bin_bytes) {
      throw_error("{}: sequence {} ends at byte {}, past the {} bytes of the .bin (truncated?)", path, i,
                  offset, bin_bytes);
    }
  }
  if (offset != bin_bytes) {
    throw_error("{}: its sequences have {} bytes, but the .bin has {}", path, offset, bin_bytes);
  }
  num_tokens_ = offset / size;

  std::int64_t previous = 0;
  for (std::int64_t d = 0; d <= num_documents_; ++d) {
    const auto bound = load_element<std::int64_t>(documents_, d);
    if (d == 0 ? bound != 0 : bound < previous || bound > num_sequences_) {
      throw_error("{}: document bound {} is {} after {}, allowed {}..{}", path, d, bound, previous, previous,
                  d == 0 ? 0 : num_sequences_);
    }
    previous = bound;
  }
  if (previous != num_sequences_) {
    throw_error("{}: the last document ends at sequence {} of {}", path, previous, num_sequences_);
  }
}

std::int64_t MegatronIndex::document_end(std::int64_t i) const {
  HYSPARSE_CHECK(i >= 0 && i < num_documents_, "document {} of {}", i, num_documents_);
  const auto bound = load_element<std::int64_t>(documents_, i + 1);
  if (bound == num_sequences_) return num_tokens_;
  return load_element<std::int64_t>(pointers_, bound) / token_type_size(type_);
}

MegatronDataset::MegatronDataset(const std::string& prefix, const OpenTokensOptions& options)
    : path_(prefix + ".idx"),
      bin_path_(prefix + ".bin"),
      limit_(options.vocab_size),
      index_file_(path_),
      bin_file_(bin_path_),
      index_(index_file_.span(), bin_file_.bytes(), path_),
      tokens_(bin_file_.data(), index_.num_tokens(), index_.type()) {
  info_.eos_id = -1;
}

}  // namespace hysparse
