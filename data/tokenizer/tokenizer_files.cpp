#include "data/tokenizer/tokenizer_files.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "core/error.h"
#include "core/strict_json.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t max_config_bytes = 16 << 20;

/// An object of a file beside the tokenizer; null when there is no such file.
json config_beside(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return nullptr;
  json config = parse_json(read_limited(path.string(), max_config_bytes), path.string());
  if (!config.is_object()) throw_error("{}: no JSON object", path.string());
  return config;
}

}  // namespace

std::string find_tokenizer_json(const std::string& name) {
  std::error_code ignored;
  fs::path path = name;
  if (fs::is_directory(path, ignored)) path /= "tokenizer.json";
  if (fs::is_regular_file(path, ignored)) return path.string();
  throw_error("tokenizer {}: {}; available: byte, a tokenizer.json, a directory that holds one", name,
              path.extension() == ".json" ? "no file " + path.string() : "unknown");
}

std::string read_limited(const std::string& path, std::int64_t limit) {
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (!file || error) throw_error("{}: cannot be read", path);
  if (size > static_cast<std::uintmax_t>(limit))
    throw_error("{}: {} bytes, at most {} are allowed", path, size, limit);
  std::string text(size, '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (!file) throw_error("{}: cannot be read", path);
  return text;
}

EosChoice eos_beside(const std::string& path) {
  const fs::path directory = fs::path(path).parent_path();
  if (const json config = config_beside(directory / "tokenizer_config.json"); config.is_object()) {
    const auto eos = config.find("eos_token");
    if (eos != config.end() && eos->is_string()) return {eos->get<std::string>(), {}};
    if (eos != config.end() && eos->is_object() && eos->value("content", json()).is_string())
      return {(*eos)["content"].get<std::string>(), {}};
  }
  for (const char* name : {"generation_config.json", "config.json"}) {
    const json config = config_beside(directory / name);
    if (!config.is_object()) continue;
    json id = config.value("eos_token_id", json());
    if (id.is_array() && !id.empty()) id = json(id[0]);
    if (id.is_number_integer() && id >= 0 && id <= std::numeric_limits<std::int32_t>::max())
      return {"", id.get<std::int32_t>()};
  }
  return {};
}

}  // namespace hysparse
