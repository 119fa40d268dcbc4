// A token file of ours: HDF5, whose metadata carries checksums.
#include "data/token_file.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/hdf5.h"
#include "core/plain_hdf5.h"
#include "tests/fuzz/support.h"
#include "tests/fuzz/targets.h"
#include "tests/fuzz/temporary_files.h"

namespace hysparse::fuzz {
namespace {

std::uint32_t checksum(std::string_view text) {
  return hdf5_checksum(as_bytes(text));
}

std::uint32_t u32_at(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

/// A run of bytes that its checksum follows.
struct Sealed {
  std::size_t begin, end;
};

/// A small file as `hysparse prepare` writes it, and where its checksums are.
struct Sample {
  TemporaryFolder folder;
  std::string path = folder / "tokens.h5", bytes;
  std::vector<Sealed> sealed;

  Sample() {
    const std::vector<std::uint16_t> tokens = {1, 2, 9, 3, 9};
    const std::vector<std::uint64_t> ends = {3, 5};
    const std::array<std::int64_t, 1> token_dims = {5}, end_dims = {2};
    Hdf5File file = Hdf5File::create(path);
    file.write("tokens", Hdf5Type::u16, token_dims, tokens.data());
    file.write("doc_ends", Hdf5Type::u64, end_dims, ends.data());
    file.set_attribute("", "tokenizer", std::string_view("byte"));
    file.set_attribute("", "tokenizer_hash", std::string_view("0123456789abcdef"));
    file.set_attribute("", "command", std::string_view("hysparse prepare"));
    file.set_attribute("", "vocab_size", std::int64_t{320});
    file.set_attribute("", "eos_id", std::int64_t{9});
    file.close_and_sync();
    std::ifstream in(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
    find_checksums();
  }

 private:
  void find_checksums() {
    for (const std::string_view mark : {"\x89HDF\r\n\x1a\n", "OHDR", "OCHK"}) {
      for (std::size_t at = bytes.find(mark); at != std::string::npos; at = bytes.find(mark, at + 1)) {
        for (std::size_t end = at + mark.size(); end + 4 <= bytes.size(); ++end) {
          const auto covered = std::string_view(bytes).substr(at, end - at);
          if (checksum(covered) == u32_at(bytes, end)) sealed.push_back({at, end});
        }
      }
    }
    constexpr std::size_t superblock_and_headers = 4;  // of the root, tokens and doc_ends
    HYSPARSE_CHECK(sealed.size() >= superblock_and_headers, "{} checksums found in {} bytes", sealed.size(),
                   bytes.size());
  }
};

}  // namespace

/// A byte that says whether checksums are put right where a sound file has them, then the changes, of three
/// bytes each: where (u16) and what is there instead.
void token_file(std::string_view input) {
  static const Sample sample;
  std::string bytes = sample.bytes;
  const auto choice = take<std::uint8_t>(input);
  if (choice == 0) {
    bytes = input;
  } else {
    while (input.size() >= 3) {
      const std::size_t at = take<std::uint16_t>(input) % bytes.size();
      bytes[at] = static_cast<char>(take<std::uint8_t>(input));
    }
    if (choice % 8 != 1) {
      for (const Sealed& part : sample.sealed) {
        const std::uint32_t sum = checksum(std::string_view(bytes).substr(part.begin, part.end - part.begin));
        std::memcpy(bytes.data() + part.end, &sum, sizeof sum);
      }
    }
  }
  write_file(sample.path, bytes);
  accept_or_refuse([&] {
    const TokenFile file(sample.path);
    std::int64_t previous = 0;
    for (std::int64_t i = 0; i < file.num_documents(); ++i) {
      HYSPARSE_CHECK(file.document_end(i) > previous, "document {}", i);
      previous = file.document_end(i);
    }
    HYSPARSE_CHECK(previous == file.num_tokens(), "{} of {}", previous, file.num_tokens());
    std::vector<std::int32_t> ids(static_cast<std::size_t>(file.num_tokens()));
    file.read(0, ids);
  });
}

}  // namespace hysparse::fuzz
