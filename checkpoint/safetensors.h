/// safetensors, the weight format of Hugging Face: u64 little-endian header length N, N bytes of JSON, then the
/// data. A model is one file, or shards `model-00001-of-0000N.safetensors` listed in
/// `model.safetensors.index.json`. Writing streams: nobody holds the whole model. Reading maps nothing and
/// trusts nothing: every length and offset is checked when the file is opened, elements are read when asked
/// for. docs/checkpoint.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/stored_dtype.h"
#include "core/tensor.h"

namespace hysparse {

/// A tensor to write.
struct SafetensorsTensor {
  std::string name;
  DType dtype;
  Shape shape;
};

/// A file of a directory: tensors [first, last) of a list.
struct SafetensorsShard {
  std::string file;  ///< its name in the directory
  std::size_t first = 0;
  std::size_t last = 0;
};
/// How the tensors of a list go to the files of a directory: model.safetensors, or shards of at most
/// `shard_bytes`. A tensor is never split: one larger than a shard has a shard of its own.
std::vector<SafetensorsShard> safetensors_shards(const std::vector<SafetensorsTensor>& tensors,
                                                 std::int64_t shard_bytes);
/// The text of model.safetensors.index.json.
std::string safetensors_index(const std::vector<SafetensorsTensor>& tensors,
                              const std::vector<SafetensorsShard>& shards);

/// Writes the tensors of a list fixed beforehand, in its order. Nothing has its final name before finish(): a
/// writer destroyed earlier removes what it wrote. Throws Failure when a file cannot be written.
class SafetensorsWriter {
 public:
  static constexpr std::int64_t max_shard_bytes = 5'000'000'000;

  /// One file of any size at `path`.
  static SafetensorsWriter to_file(const std::string& path, std::vector<SafetensorsTensor> tensors);
  /// The files of safetensors_shards, one after another, and the index when there are several. The directory
  /// must exist.
  static SafetensorsWriter to_directory(const std::string& directory, std::vector<SafetensorsTensor> tensors,
                                        std::int64_t shard_bytes = max_shard_bytes);

  ~SafetensorsWriter();
  SafetensorsWriter(SafetensorsWriter&&) = default;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = delete;

  /// The next elements: `name` must be the first tensor of the list that is not complete. A large tensor may
  /// come in several parts, in order. Elements are converted to the listed dtype.
  void write(std::string_view name, const Tensor& part);
  /// Checks that all tensors are complete, syncs the files, renames them, the index last; removes an index or a
  /// model.safetensors that an earlier export of the other kind left in the directory.
  void finish();

 private:
  using Shard = SafetensorsShard;  // `file`: the final path
  SafetensorsWriter(std::string directory, std::vector<SafetensorsTensor> tensors, std::vector<Shard> shards);
  /// Opens the first file; a failure destroys the writer, which cleans up.
  static SafetensorsWriter begin(SafetensorsWriter writer);
  void begin_shard();
  void end_shard();

  std::string directory_;  // empty: to_file
  std::vector<SafetensorsTensor> tensors_;
  std::vector<Shard> shards_;
  std::vector<std::string> temporary_;  // not renamed yet
  std::unique_ptr<File> file_;          // of shards_[shard_]
  std::size_t shard_ = 0;
  std::size_t next_ = 0;       // tensor being written
  std::int64_t written_ = 0;   // its elements so far
  std::int64_t position_ = 0;  // in the file
};

/// A tensor of a file; `dtype` as stored.
struct SafetensorsEntry {
  std::string name;
  StoredDType dtype;
  Shape shape;
  std::size_t file = 0;     ///< which of the reader's files
  std::int64_t offset = 0;  ///< of its first byte in the file
};

/// Opens a file, or a directory that holds model.safetensors or model.safetensors.index.json. Throws Error,
/// naming the file and the fault, for anything that is not exactly the format (formats: header at most
/// 100,000,000 bytes, starts with
/// `{`, no duplicate names, known dtypes, at most four dims, data contiguous from 0 without holes up to the
/// file's end; an index names plain files of its own directory that hold the tensors it says).
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path);

  /// In the order of the data; of a sharded model only what the index names.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const SafetensorsEntry* find(std::string_view name) const;
  const std::string& file_of(const SafetensorsEntry& entry) const { return files_[entry.file].path(); }

  /// A tensor converted to `dtype`; Error when there is none of that name or it does not convert
  /// (stored_dtype.h).
  Tensor read(std::string_view name, DType dtype) const;
  /// Rows [begin, end) of dim 0. They must be rows of the tensor.
  Tensor read_rows(std::string_view name, std::int64_t begin, std::int64_t end, DType dtype) const;

 private:
  const SafetensorsEntry& get(std::string_view name) const;
  void add_file(const std::string& path);
  void add_index(const std::string& directory, const std::string& path);
  void read_elements(const SafetensorsEntry& entry, std::int64_t first, const Tensor& out) const;

  std::vector<File> files_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string, std::size_t> by_name_;
};

}  // namespace hysparse
