#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <unordered_set>

#include <unistd.h>

#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_header.h"
#include "core/strict_json.h"

namespace hysparse {

static_assert(std::endian::native == std::endian::little, "files hold little-endian elements");

namespace {

constexpr std::int64_t elements_at_once = 1 << 20;

std::int64_t bytes_of(const SafetensorsTensor& tensor) {
  return tensor.shape.numel() * dtype_size(tensor.dtype);
}

}  // namespace

SafetensorsWriter SafetensorsWriter::to_file(const std::string& path, std::vector<SafetensorsTensor> tensors) {
  std::vector<Shard> shards{{path, 0, tensors.size()}};
  return begin(SafetensorsWriter("", std::move(tensors), std::move(shards)));
}

std::vector<SafetensorsShard> safetensors_shards(const std::vector<SafetensorsTensor>& tensors,
                                                 std::int64_t shard_bytes) {
  std::vector<SafetensorsShard> shards(1);
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (i > shards.back().first && bytes + bytes_of(tensors[i]) > shard_bytes) {
      shards.push_back({"", i, i});
      bytes = 0;
    }
    bytes += bytes_of(tensors[i]);
    shards.back().last = i + 1;
  }
  for (std::size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = shards.size() == 1 ? std::string(safetensors::single_file)
                                        : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

std::string safetensors_index(const std::vector<SafetensorsTensor>& tensors,
                              const std::vector<SafetensorsShard>& shards) {
  std::int64_t total = 0;
  std::string text;
  for (const SafetensorsShard& shard : shards) {
    const nlohmann::json file = shard.file;
    for (std::size_t i = shard.first; i < shard.last; ++i) {
      total += bytes_of(tensors[i]);
      text += fmt::format("{}\n    {}: {}", text.empty() ? "" : ",", nlohmann::json(tensors[i].name).dump(),
                          file.dump());
    }
  }
  return fmt::format("{{\n  \"metadata\": {{\"total_size\": {}}},\n  \"weight_map\": {{{}\n  }}\n}}\n", total,
                     text);
}

SafetensorsWriter SafetensorsWriter::to_directory(const std::string& directory,
                                                  std::vector<SafetensorsTensor> tensors,
                                                  std::int64_t shard_bytes) {
  std::vector<Shard> shards = safetensors_shards(tensors, shard_bytes);
  for (Shard& shard : shards) shard.file = fmt::format("{}/{}", directory, shard.file);
  return begin(SafetensorsWriter(directory, std::move(tensors), std::move(shards)));
}

SafetensorsWriter::SafetensorsWriter(std::string directory, std::vector<SafetensorsTensor> tensors,
                                     std::vector<Shard> shards)
    : directory_(std::move(directory)), tensors_(std::move(tensors)), shards_(std::move(shards)) {
  std::unordered_set<std::string_view> names{"__metadata__"};
  for (const SafetensorsTensor& tensor : tensors_) {
    HYSPARSE_CHECK(names.insert(tensor.name).second, "tensor {} twice", tensor.name);
  }
}

SafetensorsWriter SafetensorsWriter::begin(SafetensorsWriter writer) {
  writer.begin_shard();
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  file_.reset();
  for (const std::string& path : temporary_) ::unlink(path.c_str());
}

void SafetensorsWriter::begin_shard() {
  const Shard& shard = shards_[shard_];
  const std::string header =
      safetensors::make_header(std::span(tensors_).subspan(shard.first, shard.last - shard.first));
  const auto header_bytes = static_cast<std::int64_t>(header.size());
  if (header_bytes > safetensors::max_header_bytes) {
    throw_error("{}: the header of {} tensors takes {} bytes, at most {} are allowed", shard.file,
                shard.last - shard.first, header.size(), safetensors::max_header_bytes);
  }
  file_ = std::make_unique<File>(File::create(shard.file + ".tmp"));
  temporary_.push_back(shard.file + ".tmp");
  file_->write(0, &header_bytes, sizeof header_bytes);
  file_->write(sizeof header_bytes, header.data(), header_bytes);
  position_ = static_cast<std::int64_t>(sizeof header_bytes) + header_bytes;
}

void SafetensorsWriter::end_shard() {
  file_->sync();
  file_->close();
  file_.reset();
  ++shard_;
}

void SafetensorsWriter::write(std::string_view name, const Tensor& part) {
  HYSPARSE_CHECK(part.device().is_cpu(), "tensor {}", name);
  // Tensors without elements are complete as they are.
  while (next_ < tensors_.size() && tensors_[next_].name != name && tensors_[next_].shape.numel() == 0) ++next_;
  HYSPARSE_CHECK(next_ < tensors_.size() && tensors_[next_].name == name, "tensor {} given, {} is next", name,
                 next_ < tensors_.size() ? tensors_[next_].name : "none");
  const SafetensorsTensor& tensor = tensors_[next_];
  HYSPARSE_CHECK(part.numel() <= tensor.shape.numel() - written_, "tensor {} {}: {} elements after {}", name,
                 tensor.shape.str(), part.numel(), written_);
  while (next_ >= shards_[shard_].last) {
    end_shard();
    begin_shard();
  }
  const StoredDType from = stored_dtype(part.dtype());
  const char* source = static_cast<const char*>(part.raw());
  if (part.dtype() == tensor.dtype) {
    file_->write(position_, source, part.bytes());
  } else {
    std::vector<char> buffer(
        static_cast<std::size_t>(std::min(part.numel(), elements_at_once) * dtype_size(tensor.dtype)));
    for (std::int64_t i = 0; i < part.numel(); i += elements_at_once) {
      const std::int64_t count = std::min(part.numel() - i, elements_at_once);
      convert_elements(from, source + i * dtype_size(part.dtype()), tensor.dtype, buffer.data(), count);
      file_->write(position_ + i * dtype_size(tensor.dtype), buffer.data(), count * dtype_size(tensor.dtype));
    }
  }
  position_ += part.numel() * dtype_size(tensor.dtype);
  written_ += part.numel();
  if (written_ == tensor.shape.numel()) {
    ++next_;
    written_ = 0;
  }
}

void SafetensorsWriter::finish() {
  while (next_ < tensors_.size() && tensors_[next_].shape.numel() == 0) ++next_;
  HYSPARSE_CHECK(next_ == tensors_.size(), "tensor {} has {} of {} elements", tensors_[next_].name, written_,
                 tensors_[next_].shape.numel());
  end_shard();
  while (shard_ < shards_.size()) {  // shards of nothing but tensors without elements
    begin_shard();
    end_shard();
  }

  for (const Shard& shard : shards_) {
    rename_durably(shard.file + ".tmp", shard.file);
    temporary_.erase(temporary_.begin());
  }
  if (directory_.empty()) return;
  const std::string single = fmt::format("{}/{}", directory_, safetensors::single_file);
  const std::string index = fmt::format("{}/{}", directory_, safetensors::index_file);
  std::error_code ignored;
  if (shards_.size() == 1) {
    std::filesystem::remove(index, ignored);
    return;
  }
  std::vector<Shard> names = shards_;
  for (Shard& shard : names) shard.file = std::filesystem::path(shard.file).filename().string();
  write_file_atomically(index, safetensors_index(tensors_, names));
  std::filesystem::remove(single, ignored);
}

}  // namespace hysparse
