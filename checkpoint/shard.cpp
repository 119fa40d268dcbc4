#include "checkpoint/shard.h"

#include <algorithm>

#include "checkpoint/region.h"
#include "checkpoint/stored_dtype.h"
#include "core/error.h"

namespace hysparse {
namespace {

constexpr const char* format_name = "hysparse checkpoint shard";
constexpr std::size_t most_open = 16;
constexpr std::int64_t buffer_bytes = 1 << 20;

std::vector<std::int64_t> list(const Shape& shape) {
  return {shape.begin(), shape.end()};
}

/// Reads a file mostly forward in small steps through one buffer.
class BufferedReader {
 public:
  /// Elements end at `end`.
  BufferedReader(const File& file, std::int64_t end) : file_(file), end_(end) {}

  /// `bytes` bytes at `offset`, valid until the next call; at most buffer_bytes.
  const char* get(std::int64_t offset, std::int64_t bytes) {
    if (offset < begin_ || offset + bytes > begin_ + static_cast<std::int64_t>(buffer_.size())) {
      buffer_.resize(static_cast<std::size_t>(std::min(buffer_bytes, end_ - offset)));
      file_.read(offset, buffer_.data(), static_cast<std::int64_t>(buffer_.size()));
      begin_ = offset;
    }
    return buffer_.data() + (offset - begin_);
  }

 private:
  const File& file_;
  std::int64_t end_;
  std::int64_t begin_ = 0;
  std::vector<char> buffer_;
};

}  // namespace

ShardPlan create_shard(const std::string& path, std::span<const Piece> pieces, std::int64_t step, int shard) {
  ShardPlan plan{path, {}, {}};
  // HDF5 cannot recover from a disk that fills up or a limit on file size, and finds the latter only on
  // closing: take all the room beforehand, with some for its structures. The other ranks take theirs meanwhile.
  std::int64_t bytes = 8192;
  for (const Piece& piece : pieces) bytes += 1024 + (piece.data.defined() ? piece.data.bytes() : 0);
  File::create(path).reserve(bytes);

  Hdf5File file = Hdf5File::create_over(path);
  file.set_attribute("", "format", std::string_view(format_name));
  file.set_attribute("", "step", step);
  file.set_attribute("", "rank", static_cast<std::int64_t>(shard));
  for (const Piece& piece : pieces) {
    const std::int64_t numel = piece.box.shape.numel();
    HYSPARSE_CHECK(piece.data.defined() && piece.data.numel() == numel && piece.data.device().is_cpu(),
                   "piece {} {}", piece.name, piece.box.shape.str());
    Box inside;
    HYSPARSE_CHECK(
        numel == 0 || (intersect(piece.box, whole_box(piece.global_shape), &inside) && inside == piece.box),
        "piece {} {} at {} of {}", piece.name, piece.box.shape.str(), piece.box.offset.str(),
        piece.global_shape.str());
    StoredTensor& tensor =
        plan.tensors.emplace(piece.name, StoredTensor{piece.data.dtype(), piece.global_shape, {}})
            .first->second;
    HYSPARSE_CHECK(tensor.dtype == piece.data.dtype() && tensor.global_shape == piece.global_shape,
                   "pieces of {}", piece.name);
    plan.offsets.push_back(-1);
    if (numel == 0) continue;
    const int index = static_cast<int>(tensor.pieces.size());
    const std::string dataset = dataset_name(piece.name, index);
    file.create_dataset(dataset, hdf5_type_of(tensor.dtype), list(piece.box.shape));
    file.set_attribute(dataset, "global_shape", list(piece.global_shape));
    file.set_attribute(dataset, "offset", list(piece.box.offset));
    file.set_attribute(dataset, "dtype", dtype_name(tensor.dtype));
    plan.offsets.back() = file.info(dataset).offset_bytes;
    tensor.pieces.push_back({shard, index, piece.box});
  }
  file.close_and_sync();
  return plan;
}

FileDigest fill_shard(const ShardPlan& plan, std::span<const Piece> pieces) {
  File file = File::open_to_write(plan.path);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (plan.offsets[i] >= 0) file.write(plan.offsets[i], pieces[i].data.raw(), pieces[i].data.bytes());
  }
  file.sync();
  file.close();
  return digest_file(plan.path);
}

ShardFiles::ShardFiles(std::string step_directory, std::vector<FileDigest> digests)
    : directory_(std::move(step_directory)), digests_(std::move(digests)), verified_(digests_.size(), false) {}

void ShardFiles::verify(int shard) {
  const auto i = static_cast<std::size_t>(shard);
  if (verified_[i]) return;
  const std::string path = path_of(shard);
  const FileDigest found = digest_file(path);
  if (found.bytes != digests_[i].bytes) {
    throw_error("{}: {} bytes, the manifest says {}: truncated or damaged", path, found.bytes,
                digests_[i].bytes);
  }
  if (found.xxh3 != digests_[i].xxh3) {
    throw_error("{}: damaged: checksum {}, the manifest says {}", path, found.xxh3,
                printable(digests_[i].xxh3));
  }
  verified_[i] = true;
}

std::string ShardFiles::path_of(int shard) const {
  return fmt::format("{}/{}", directory_, shard_name(shard));
}

std::int64_t ShardFiles::check(const std::string& name, const StoredTensor& tensor, const StoredPiece& piece) {
  verify(piece.shard);
  const std::string dataset = dataset_name(name, piece.index);
  const std::string key = fmt::format("{}/{}", piece.shard, dataset);
  if (const auto at = offsets_.find(key); at != offsets_.end()) return at->second;
  if (hdf5_shard_ != piece.shard) {
    hdf5_ = std::make_unique<Hdf5File>(Hdf5File::open(path_of(piece.shard)));
    hdf5_shard_ = piece.shard;
  }
  const Hdf5DatasetInfo info = hdf5_->info(dataset);
  const std::string dtype = hdf5_->string_attribute(dataset, "dtype");
  if (dtype != dtype_name(tensor.dtype) || info.type != hdf5_type_of(tensor.dtype) ||
      info.dims != list(piece.box.shape) ||
      hdf5_->i64s_attribute(dataset, "offset") != list(piece.box.offset) ||
      hdf5_->i64s_attribute(dataset, "global_shape") != list(tensor.global_shape)) {
    throw_error("{}: dataset {} is {} [{}], not the piece {} {} at {} of {} that the manifest lists",
                hdf5_->path(), dataset, printable(dtype), fmt::join(info.dims, ", "), dtype_name(tensor.dtype),
                piece.box.shape.str(), piece.box.offset.str(), tensor.global_shape.str());
  }
  offsets_.emplace(key, info.offset_bytes);
  return info.offset_bytes;
}

const File& ShardFiles::open(int shard) {
  for (const auto& [number, file] : open_) {
    if (number == shard) return file;
  }
  if (open_.size() == most_open) open_.pop_front();
  return open_.emplace_back(shard, File::open(path_of(shard))).second;
}

void ShardFiles::read(const std::string& name, const StoredTensor& tensor, const StoredPiece& piece,
                      const Box& target, const Tensor& out) {
  Box common;
  if (!intersect(piece.box, target, &common)) return;
  const std::int64_t offset = check(name, tensor, piece);
  const File& file = open(piece.shard);
  const StoredDType stored = stored_dtype(tensor.dtype);
  const std::int64_t size = dtype_size(tensor.dtype), out_size = dtype_size(out.dtype());
  const bool is_same = tensor.dtype == out.dtype();
  BufferedReader reader(file, offset + piece.box.shape.numel() * size);
  for_each_run(piece.box, target, common, [&](const ElementRun& run) {
    const std::int64_t at_once = buffer_bytes / size;
    char* to = static_cast<char*>(out.raw()) + run.target * out_size;
    if (is_same && run.count >= at_once) return file.read(offset + run.source * size, to, run.count * size);
    for (std::int64_t i = 0; i < run.count; i += at_once) {
      const std::int64_t count = std::min(at_once, run.count - i);
      const char* from = reader.get(offset + (run.source + i) * size, count * size);
      convert_elements(stored, from, out.dtype(), to + i * out_size, count);
    }
  });
}

}  // namespace hysparse
