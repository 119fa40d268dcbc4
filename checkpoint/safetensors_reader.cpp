#include <algorithm>
#include <filesystem>
#include <map>

#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_header.h"
#include "core/strict_json.h"

namespace hysparse {
namespace {

constexpr std::int64_t buffer_bytes = 4 << 20;

/// Throws unless `file` is the plain name of a file beside the index.
void check_shard_name(const std::string& file, const std::string& path) {
  constexpr std::size_t longest = 255;  // what file systems take
  const bool plain = !file.empty() && file.size() <= longest && file.front() != '.' &&
                     std::none_of(file.begin(), file.end(), [](char c) {
                       const auto byte = static_cast<unsigned char>(c);
                       return c == '/' || c == '\\' || byte < 0x20 || byte == 0x7f;
                     });
  if (!plain || !file.ends_with(".safetensors")) {
    throw_error(
        "{}: weight_map names the file '{}'; it must be the plain name of a .safetensors file beside the index",
        path, printable(file));
  }
}

}  // namespace

SafetensorsReader::SafetensorsReader(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    const std::string single = fmt::format("{}/{}", path, safetensors::single_file);
    const std::string index = fmt::format("{}/{}", path, safetensors::index_file);
    if (fs::exists(index, ignored)) {
      add_index(path, index);
    } else if (fs::exists(single, ignored)) {
      add_file(single);
    } else {
      throw_error("{}: holds neither {} nor {}", path, safetensors::single_file, safetensors::index_file);
    }
  } else {
    add_file(path);
  }
  by_name_.reserve(entries_.size());
  for (std::size_t i = 0; i < entries_.size(); ++i) by_name_.emplace(entries_[i].name, i);
}

void SafetensorsReader::add_file(const std::string& path) {
  File file = File::open(path);
  const std::int64_t size = file.size();
  std::uint64_t header_bytes = 0;
  constexpr std::int64_t prefix = sizeof header_bytes;
  if (size < prefix) throw_error("{}: {} bytes are too few for a safetensors file", path, size);
  file.read(0, &header_bytes, prefix);
  if (header_bytes > static_cast<std::uint64_t>(safetensors::max_header_bytes)) {
    throw_error("{}: the header says it is {} bytes long, at most {} are allowed: not a safetensors file", path,
                header_bytes, safetensors::max_header_bytes);
  }
  const auto length = static_cast<std::int64_t>(header_bytes);
  if (length > size - prefix) {
    throw_error(
        "{}: the header says it is {} bytes long, the file ends after {}: truncated, or not a safetensors file",
        path, length, size - prefix);
  }
  std::string header(header_bytes, '\0');
  file.read(prefix, header.data(), length);
  for (SafetensorsEntry& entry : safetensors::parse_header(header, size - prefix - length, path)) {
    entry.file = files_.size();
    entry.offset += prefix + length;
    entries_.push_back(std::move(entry));
  }
  files_.push_back(std::move(file));
}

void SafetensorsReader::add_index(const std::string& directory, const std::string& path) {
  const nlohmann::json index = parse_json(read_text_file(path, safetensors::max_header_bytes), path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw_error("{}: has no weight_map object", path);
  }
  std::map<std::string, std::map<std::string, bool>>
      files;  // file -> tensors the index expects there, found or not
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) throw_error("{}: weight_map of '{}' is not a string", path, printable(name));
    check_shard_name(file.get<std::string>(), path);
    files[file.get<std::string>()][name] = false;
  }
  for (auto& [file, expected] : files) {
    const std::size_t first = entries_.size();
    add_file(directory + "/" + file);
    const auto unnamed = std::remove_if(entries_.begin() + static_cast<std::ptrdiff_t>(first), entries_.end(),
                                        [&expected = expected](const SafetensorsEntry& entry) {
                                          const auto at = expected.find(entry.name);
                                          if (at == expected.end()) return true;
                                          at->second = true;
                                          return false;
                                        });
    entries_.erase(unnamed, entries_.end());
    for (const auto& [name, found] : expected) {
      if (!found)
        throw_error("{}: tensor '{}' is not in {}, where the index puts it", path, printable(name), file);
    }
  }
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto at = by_name_.find(std::string(name));
  return at == by_name_.end() ? nullptr : &entries_[at->second];
}

const SafetensorsEntry& SafetensorsReader::get(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) {
    throw_error("{}: has no tensor '{}'", files_.empty() ? "safetensors" : files_.front().path(), name);
  }
  return *entry;
}

Tensor SafetensorsReader::read(std::string_view name, DType dtype) const {
  const SafetensorsEntry& entry = get(name);
  const Tensor out = Tensor::empty(entry.shape, dtype);
  read_elements(entry, 0, out);
  return out;
}

Tensor SafetensorsReader::read_rows(std::string_view name, std::int64_t begin, std::int64_t end,
                                    DType dtype) const {
  const SafetensorsEntry& entry = get(name);
  Shape shape = entry.shape;
  HYSPARSE_CHECK(shape.rank() > 0 && 0 <= begin && begin <= end && end <= shape[0], "rows [{}, {}) of {} {}",
                 begin, end, name, shape.str());
  const std::int64_t row = shape[0] == 0 ? 0 : shape.numel() / shape[0];
  shape.set(0, end - begin);
  const Tensor out = Tensor::empty(shape, dtype);
  read_elements(entry, begin * row, out);
  return out;
}

void SafetensorsReader::read_elements(const SafetensorsEntry& entry, std::int64_t first,
                                      const Tensor& out) const {
  const File& file = files_[entry.file];
  if (!converts(entry.dtype, out.dtype())) {
    throw_error("{}: tensor '{}' is {}, which cannot be read as {}", file.path(), printable(entry.name),
                stored_name(entry.dtype), dtype_name(out.dtype()));
  }
  const std::int64_t size = stored_size(entry.dtype);
  if (entry.dtype == stored_dtype(out.dtype()))
    return file.read(entry.offset + first * size, out.raw(), out.bytes());
  const std::int64_t at_once = buffer_bytes / size;
  std::vector<char> buffer(static_cast<std::size_t>(std::min(at_once, out.numel()) * size));
  for (std::int64_t i = 0; i < out.numel(); i += at_once) {
    const std::int64_t count = std::min(at_once, out.numel() - i);
    file.read(entry.offset + (first + i) * size, buffer.data(), count * size);
    convert_elements(entry.dtype, buffer.data(), out.dtype(),
                     static_cast<char*>(out.raw()) + i * dtype_size(out.dtype()), count);
  }
}

}  // namespace hysparse
