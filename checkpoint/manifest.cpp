#include "checkpoint/manifest.h"

#include <charconv>
#include <filesystem>
#include <limits>

#include "checkpoint/region.h"
#include "core/error.h"
#include "core/strict_json.h"

namespace hysparse {
namespace {

using nlohmann::json;

constexpr std::int64_t version = 2;
constexpr std::int64_t max_manifest_bytes = std::int64_t{1} << 30;
constexpr std::int64_t max_block_bytes = 64 << 20;
constexpr std::string_view format_name = "hysparse checkpoint";
constexpr std::string_view seal_begin = "  \"checksum\": \"xxh3:";
constexpr std::string_view seal_end = "\"\n}\n";
constexpr std::size_t hex_digits = 16;  // of one XXH3
constexpr std::size_t seal_bytes = seal_begin.size() + 16 + seal_end.size();

/// The manifest was written by no version of this program: what follows the path in the message.
struct Fault {
  std::string reason;
};

template <class... Args>
[[noreturn]] void fault(fmt::format_string<Args...> format, Args&&... args) {
  throw Fault{fmt::format(format, std::forward<Args>(args)...)};
}

std::string quoted(const std::string& text) {
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

template <class Value>
std::string map_text(const std::map<std::string, Value>& values) {
  return json(values).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string dims_text(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ","));
}

std::string tensors_text(const StoredTensors& tensors) {
  std::string text = "{";
  for (const auto& [name, tensor] : tensors) {
    text += fmt::format("{}\n    {}: {{\"dtype\":\"{}\",\"shape\":{},\"pieces\":[", text.size() > 1 ? "," : "",
                        quoted(name), dtype_name(tensor.dtype), dims_text(tensor.global_shape));
    for (const StoredPiece& piece : tensor.pieces) {
      text += fmt::format("{}[{},{},{},{},{}]", &piece == tensor.pieces.data() ? "" : ",", piece.shard,
                          piece.index, piece.at, dims_text(piece.box.offset), dims_text(piece.box.shape));
    }
    text += "]}";
  }
  return text + "\n  }";
}

const json& member(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) fault("has no '{}'", key);
  return object[key];
}

std::int64_t integer(const json& value, const char* what) {
  if (!value.is_number_unsigned() ||
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fault("{} is not a whole number from 0 on", what);
  }
  return value.get<std::int64_t>();
}

std::map<std::string, std::int64_t> integers(const json& value, const char* what) {
  if (!value.is_object()) fault("{} is not an object", what);
  std::map<std::string, std::int64_t> numbers;
  for (const auto& [key, number] : value.items())
    numbers[key] = integer(number, fmt::format("{} {}", what, printable(key)).c_str());
  return numbers;
}

int small_integer(const json& value, const char* what) {
  const std::int64_t n = integer(value, what);
  if (n > std::numeric_limits<int>::max()) fault("{} is {}", what, n);
  return static_cast<int>(n);
}

std::string text(const json& value, const char* what) {
  if (!value.is_string()) fault("{} is not a string", what);
  return value.get<std::string>();
}

Shape dims(const json& value, const std::string& name) {
  if (!value.is_array() || value.size() > static_cast<std::size_t>(Shape::max_rank)) {
    fault("tensor '{}': not a list of at most {} sizes", printable(name), Shape::max_rank);
  }
  Shape shape;
  std::int64_t bytes = 8;  // of the longest dtype
  for (const json& size : value) {
    shape.push_back(integer(size, "a size"));
    if (__builtin_mul_overflow(bytes, shape[shape.rank() - 1], &bytes)) {
      fault("tensor '{}': shape is too large", printable(name));
    }
  }
  return shape;
}

DType dtype_of_name(const std::string& name) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  fault("unknown dtype '{}'", printable(name));
}

bool is_inside(const Box& box, const Shape& shape) {
  if (box.offset.rank() != shape.rank() || box.shape.rank() != shape.rank()) return false;
  for (int d = 0; d < shape.rank(); ++d) {
    if (box.offset[d] > shape[d] || box.shape[d] > shape[d] - box.offset[d]) return false;
  }
  return true;
}

/// Pieces may be in shards `first`, `first` + 1, ..., whose digests are given.
StoredTensors tensors_of(const json& object, const std::vector<FileDigest>& shards, int first) {
  if (!object.is_object()) fault("tensors is not an object");
  StoredTensors tensors;
  for (const auto& [name, value] : object.items()) {
    StoredTensor tensor{
        dtype_of_name(text(member(value, "dtype"), "dtype")), dims(member(value, "shape"), name), {}};
    const json& pieces = member(value, "pieces");
    if (!pieces.is_array()) fault("tensor '{}': pieces is not a list", printable(name));
    for (const json& item : pieces) {
      if (!item.is_array() || item.size() != 5)
        fault("tensor '{}': a piece is not of five parts", printable(name));
      const StoredPiece piece{small_integer(item[0], "a shard"),
                              small_integer(item[1], "a piece's index"),
                              integer(item[2], "a piece's place"),
                              {dims(item[3], name), dims(item[4], name)}};
      if (piece.shard < first || piece.shard - first >= static_cast<int>(shards.size())) {
        fault("tensor '{}' has a piece in shard {}, which there is not", printable(name), piece.shard);
      }
      if (!is_inside(piece.box, tensor.global_shape)) {
        fault("tensor '{}' {} has a piece {} at {}", printable(name), tensor.global_shape.str(),
              piece.box.shape.str(), piece.box.offset.str());
      }
      const std::int64_t shard_bytes = shards[static_cast<std::size_t>(piece.shard - first)].bytes;
      const std::int64_t bytes = piece.box.shape.numel() * dtype_size(tensor.dtype);
      if (bytes > shard_bytes || piece.at > shard_bytes - bytes) {
        fault("tensor '{}': a piece {} at byte {} reaches past the end of shard {}", printable(name),
              piece.box.shape.str(), piece.at, piece.shard);
      }
      if (piece.at % dtype_size(tensor.dtype) != 0) {
        fault("tensor '{}': a piece begins at byte {}, inside an element", printable(name), piece.at);
      }
      tensor.pieces.push_back(piece);
    }
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

FileDigest digest_of(const json& object, std::int64_t block_bytes) {
  FileDigest digest{integer(member(object, "bytes"), "bytes"), {}};
  const std::string hashes = text(member(object, "xxh3"), "xxh3");
  const std::int64_t blocks = digest.bytes / block_bytes + (digest.bytes % block_bytes != 0 ? 1 : 0);
  if (static_cast<std::int64_t>(hashes.size() / hex_digits) != blocks || hashes.size() % hex_digits != 0) {
    fault("xxh3 has {} digits, {} bytes need {} times {}", hashes.size(), digest.bytes, hex_digits, blocks);
  }
  for (std::size_t i = 0; i < hashes.size(); i += hex_digits) {
    std::uint64_t hash = 0;
    const char* const end = hashes.data() + i + hex_digits;
    const auto [stop, error] = std::from_chars(hashes.data() + i, end, hash, 16);
    if (error != std::errc() || stop != end) {
      fault("xxh3 holds '{}', not {} hexadecimal digits", printable(hashes.substr(i, hex_digits)), hex_digits);
    }
    digest.blocks.push_back(hash);
  }
  return digest;
}

std::string digest_text(const FileDigest& digest) {
  std::string hashes;
  for (const std::uint64_t hash : digest.blocks) hashes += hex_text(hash);
  return fmt::format("\"bytes\":{},\"xxh3\":\"{}\"", digest.bytes, hashes);
}

void check_seal(std::string_view text) {
  if (text.size() < seal_bytes) fault("no checksum at its end: truncated or damaged");
  const std::string_view seal = text.substr(text.size() - seal_bytes);
  if (!seal.starts_with(seal_begin) || !seal.ends_with(seal_end))
    fault("no checksum at its end: truncated or damaged");
  const std::string_view body = text.substr(0, text.size() - seal_bytes);
  if (seal.substr(seal_begin.size(), 16) != xxh3_hex(body))
    fault("damaged: its checksum does not match its text");
}

Manifest manifest_of(const json& root) {
  if (!root.is_object() || !root.contains("format") || root["format"] != format_name)
    fault("not a {}", format_name);
  if (const std::int64_t found = integer(member(root, "version"), "version"); found != version) {
    fault("format version {}, this program reads version {}", found, version);
  }
  Manifest manifest;
  CheckpointInfo& info = manifest.info;
  info.step = integer(member(root, "step"), "step");
  info.tokens_seen = integer(member(root, "tokens_seen"), "tokens_seen");
  if (!member(root, "seed").is_number_unsigned()) fault("seed is not a whole number from 0 on");
  info.seed = root["seed"].get<std::uint64_t>();
  info.layout = text(member(root, "layout"), "layout");
  info.mesh = integers(member(root, "mesh"), "mesh");
  info.data_state = member(root, "data_state").get<std::map<std::string, std::string>>();
  info.config = text(member(root, "config"), "config");
  info.versions = member(root, "versions").get<std::map<std::string, std::string>>();
  manifest.block_bytes = integer(member(root, "block_bytes"), "block_bytes");
  if (manifest.block_bytes < 4096 || manifest.block_bytes > max_block_bytes || manifest.block_bytes % 8 != 0) {
    fault("block_bytes is {}, expected a multiple of 8 from 4096 to {}", manifest.block_bytes, max_block_bytes);
  }
  const json& shards = member(root, "shards");
  if (!shards.is_array()) fault("shards is not a list");
  for (const json& shard : shards) {
    const std::string expected = shard_name(static_cast<int>(manifest.shards.size()));
    const std::string name = text(member(shard, "file"), "file");
    if (name != expected) fault("a shard is named '{}', expected {}", printable(name), expected);
    manifest.shards.push_back(digest_of(shard, manifest.block_bytes));
  }
  manifest.tensors = tensors_of(member(root, "tensors"), manifest.shards, 0);
  return manifest;
}

}  // namespace

std::string shard_name(int shard) {
  return fmt::format("shard-{:05}.h5", shard);
}

std::string report_name(int shard) {
  return fmt::format("shard-{:05}.json", shard);
}

std::string dataset_name(const std::string& name, int index) {
  return index == 0 ? name : fmt::format("{}@{}", name, index);
}

std::string manifest_text(const Manifest& manifest) {
  const CheckpointInfo& info = manifest.info;
  std::string body = "{\n";
  const auto line = [&](std::string_view key, const std::string& value) {
    body += fmt::format("  \"{}\": {},\n", key, value);
  };
  line("format", quoted(std::string(format_name)));
  line("version", std::to_string(version));
  line("step", std::to_string(info.step));
  line("tokens_seen", std::to_string(info.tokens_seen));
  line("seed", std::to_string(info.seed));
  line("layout", quoted(info.layout));
  line("mesh", map_text(info.mesh));
  line("data_state", map_text(info.data_state));
  line("config", quoted(info.config));
  line("versions", map_text(info.versions));
  std::string shards = "[";
  for (std::size_t i = 0; i < manifest.shards.size(); ++i) {
    shards += fmt::format("{}\n    {{\"file\":\"{}\",{}}}", i == 0 ? "" : ",", shard_name(static_cast<int>(i)),
                          digest_text(manifest.shards[i]));
  }
  line("block_bytes", std::to_string(manifest.block_bytes));
  line("shards", shards + "\n  ]");
  line("tensors", tensors_text(manifest.tensors));
  return fmt::format("{}{}{}{}", body, seal_begin, xxh3_hex(body), seal_end);
}

Manifest parse_manifest(std::string_view text, const std::string& path) {
  try {
    check_seal(text);
    return manifest_of(parse_json(text, path));
  } catch (const Fault& fault) {
    throw DamagedCheckpoint(fmt::format("{}: {}", path, fault.reason));
  } catch (const json::exception& error) {
    throw DamagedCheckpoint(fmt::format("{}: {}", path, json_reason(error)));
  }
}

Manifest read_manifest(const std::string& step_directory) {
  const std::string path = fmt::format("{}/{}", step_directory, manifest_file);
  try {
    return parse_manifest(read_text_file(path, max_manifest_bytes), path);
  } catch (const DamagedCheckpoint&) {
    throw;
  } catch (const std::exception& error) {  // not there, not readable, no JSON
    throw DamagedCheckpoint(error.what());
  }
}

void check_shard_sizes(const Manifest& manifest, const std::string& step_directory) {
  for (std::size_t i = 0; i < manifest.shards.size(); ++i) {
    const std::string path = fmt::format("{}/{}", step_directory, shard_name(static_cast<int>(i)));
    std::error_code error;
    const std::uintmax_t bytes = std::filesystem::file_size(path, error);
    if (error) {
      throw DamagedCheckpoint(fmt::format("{}: {}, and the manifest lists it", path, error.message()));
    }
    if (bytes != static_cast<std::uintmax_t>(manifest.shards[i].bytes)) {
      throw DamagedCheckpoint(fmt::format("{}: {} bytes, the manifest says {}: truncated or damaged", path,
                                          bytes, manifest.shards[i].bytes));
    }
  }
}

std::optional<Box> uncovered(const StoredTensor& tensor, const Box& box) {
  Region missing(box);
  for (const StoredPiece& piece : tensor.pieces) {
    if (missing.empty()) return std::nullopt;
    missing.remove(piece.box);
  }
  if (missing.empty()) return std::nullopt;
  return missing.first();
}

std::string report_text(const ShardReport& report) {
  return fmt::format("{{{},\"tensors\":{}}}", digest_text(report.digest), tensors_text(report.tensors));
}

ShardReport parse_report(std::string_view text, int shard) {
  try {
    const json root = parse_json(text, "shard report");
    const FileDigest digest = digest_of(root, checksum_block_bytes);
    return {digest, tensors_of(member(root, "tensors"), {digest}, shard)};
  } catch (const Fault& fault) {
    throw_failure("shard report: {}", fault.reason);
  }
}

void add_report(const ShardReport& report, Manifest* manifest) {
  manifest->shards.push_back(report.digest);
  for (const auto& [name, tensor] : report.tensors) {
    const auto [at, is_new] = manifest->tensors.emplace(name, tensor);
    if (is_new) continue;
    if (at->second.dtype != tensor.dtype || !(at->second.global_shape == tensor.global_shape)) {
      throw_failure("tensor {} is {} {} on one rank, {} {} on another", name, dtype_name(at->second.dtype),
                    at->second.global_shape.str(), dtype_name(tensor.dtype), tensor.global_shape.str());
    }
    at->second.pieces.insert(at->second.pieces.end(), tensor.pieces.begin(), tensor.pieces.end());
  }
}

}  // namespace hysparse
