#include "data/token_dataset.h"

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/formats/datatrove.h"
#include "data/formats/llmc.h"
#include "data/formats/megatron.h"
#include "data/formats/raw_tokens.h"
#include "data/token_file.h"

namespace hysparse {
namespace {

bool is_file(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

/// The first bytes of a file; fewer when it is short or cannot be read.
std::vector<std::byte> head_of(const std::string& path) {
  std::array<char, 16> head{};
  std::size_t got = 0;
  if (is_file(path)) {
    std::ifstream file(path, std::ios::binary);
    file.read(head.data(), head.size());
    got = static_cast<std::size_t>(file.gcount());
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(head.data());
  return {bytes, bytes + got};
}

bool is_hdf5(const std::vector<std::byte>& head) {
  constexpr std::string_view signature = "\x89HDF\r\n\x1a\n";
  return head.size() >= signature.size() && std::memcmp(head.data(), signature.data(), signature.size()) == 0;
}

std::string without(const std::string& path, std::string_view ending) {
  return path.substr(0, path.size() - ending.size());
}

/// The prefix of the Megatron dataset that `path` names in one of its three ways.
std::optional<std::string> megatron_prefix(const std::string& path) {
  if (path.ends_with(".idx")) return without(path, ".idx");
  const bool is_index = is_megatron_index(head_of(path));
  if (is_index) throw_error("{}: a Megatron index whose name does not end in .idx", path);
  if (path.ends_with(".bin") && is_megatron_index(head_of(without(path, ".bin") + ".idx"))) {
    return without(path, ".bin");
  }
  std::error_code error;
  if (!std::filesystem::exists(path, error) && is_file(path + ".idx")) return path;
  return std::nullopt;
}

std::optional<std::string> datatrove_path(const std::string& path) {
  for (const std::string_view ending : {".index", ".metadata"}) {
    if (path.ends_with(ending) &&
        (path.ends_with(fmt::format(".ds{}", ending)) || is_file(without(path, ending)))) {
      return without(path, ending);
    }
  }
  if (path.ends_with(".ds") || (is_file(path) && is_file(path + ".index"))) return path;
  return std::nullopt;
}

}  // namespace

const char* token_format_name(TokenFormat format) {
  switch (format) {
    case TokenFormat::hdf5:
      return "hdf5";
    case TokenFormat::megatron:
      return "megatron";
    case TokenFormat::datatrove:
      return "datatrove";
    case TokenFormat::llmc:
      return "llmc";
    case TokenFormat::raw:
      return "raw";
  }
  return "?";
}

std::int64_t TokenDataset::document_of(std::int64_t token) const {
  HYSPARSE_CHECK(token >= 0 && token < num_tokens(), "token {} of {}", token, num_tokens());
  std::int64_t low = 0, high = num_documents() - 1;  // the first whose end is past the token
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (document_end(middle) > token) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

std::unique_ptr<TokenDataset> open_token_dataset(const std::string& path, const OpenTokensOptions& options) {
  const std::vector<std::byte> head = head_of(path);
  if (is_hdf5(head)) return std::make_unique<TokenFile>(path);
  if (const auto prefix = megatron_prefix(path)) return std::make_unique<MegatronDataset>(*prefix, options);
  if (const auto ds = datatrove_path(path)) return std::make_unique<DatatroveDataset>(*ds, options);
  if (is_llmc(head)) return std::make_unique<LlmcDataset>(path, options);
  if (path.ends_with(".bin")) return std::make_unique<RawTokenFile>(path, options);
  const bool named_hdf5 = path.ends_with(".h5") || path.ends_with(".hdf5");
  if (named_hdf5 || !is_file(path)) return std::make_unique<TokenFile>(path);  // its message says what is wrong
  throw_error(
      "{}: not a token dataset: neither HDF5, Megatron (NAME.idx beside NAME.bin), datatrove (NAME.ds beside "
      "NAME.ds.index) nor llm.c or int32 (NAME.bin)",
      path);
}

}  // namespace hysparse
