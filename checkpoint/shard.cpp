#include "checkpoint/shard.h"

#include <algorithm>
#include <sstream>

#include "checkpoint/region.h"
#include "core/child_process.h"
#include "core/hdf5.h"

namespace hysparse {
namespace {

constexpr const char* format_name = "hysparse checkpoint shard";

std::vector<std::int64_t> list(const Shape& shape) {
  return {shape.begin(), shape.end()};
}

void check_piece(const Piece& piece) {
  const std::int64_t numel = piece.box.shape.numel();
  HYSPARSE_CHECK(piece.data.defined() && piece.data.numel() == numel && piece.data.device().is_cpu(),
                 "piece {} {}", piece.name, piece.box.shape.str());
  Box inside;
  HYSPARSE_CHECK(
      numel == 0 || (intersect(piece.box, whole_box(piece.global_shape), &inside) && inside == piece.box),
      "piece {} {} at {} of {}", piece.name, piece.box.shape.str(), piece.box.offset.str(),
      piece.global_shape.str());
}

/// Makes the dataset of a piece; where its elements begin.
std::int64_t make_dataset(Hdf5File& file, const Piece& piece, int index) {
  const std::string name = dataset_name(piece.name, index);
  const auto shape = list(piece.box.shape), global_shape = list(piece.global_shape),
             offset = list(piece.box.offset);
  const Hdf5NewDataset::Numbers numbers[] = {{"global_shape", global_shape}, {"offset", offset}};
  const Hdf5NewDataset::Text texts[] = {{"dtype", dtype_name(piece.data.dtype())}};
  return file.create_dataset({name, hdf5_type_of(piece.data.dtype()), shape, numbers, texts});
}

/// Each dataset must be the piece that the manifest lists, and lie where it says: what does not, a line each.
std::vector<std::string> compare(const std::string& path, const StoredTensors& tensors, int shard) {
  std::vector<std::string> problems;
  try {
    const Hdf5File file = Hdf5File::open(path);
    for (const auto& [name, tensor] : tensors) {
      for (const StoredPiece& piece : tensor.pieces) {
        if (piece.shard != shard) continue;
        const std::string dataset = dataset_name(name, piece.index);
        const Hdf5DatasetInfo info = file.info(dataset);
        const std::string dtype = file.string_attribute(dataset, "dtype");
        if (dtype != dtype_name(tensor.dtype) || info.type != hdf5_type_of(tensor.dtype) ||
            info.dims != list(piece.box.shape) || info.offset_bytes != piece.at ||
            file.i64s_attribute(dataset, "offset") != list(piece.box.offset) ||
            file.i64s_attribute(dataset, "global_shape") != list(tensor.global_shape)) {
          problems.push_back(
              fmt::format("{}: dataset {} is {} [{}] at byte {}, not the piece {} {} at {} of {} that the "
                          "manifest lists at "
                          "byte {}",
                          path, dataset, printable(dtype), fmt::join(info.dims, ", "), info.offset_bytes,
                          dtype_name(tensor.dtype), piece.box.shape.str(), piece.box.offset.str(),
                          tensor.global_shape.str(), piece.at));
        }
      }
    }
  } catch (const Error& error) {  // one problem a shard: the rest of the file may be of no use either
    problems.push_back(error.what());
  }
  return problems;
}

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
    check_piece(piece);
    StoredTensor& tensor =
        plan.tensors.emplace(piece.name, StoredTensor{piece.data.dtype(), piece.global_shape, {}})
            .first->second;
    HYSPARSE_CHECK(tensor.dtype == piece.data.dtype() && tensor.global_shape == piece.global_shape,
                   "pieces of {}", piece.name);
    plan.offsets.push_back(-1);
    if (piece.data.numel() == 0) continue;
    const int index = static_cast<int>(tensor.pieces.size());
    plan.offsets.back() = make_dataset(file, piece, index);
    tensor.pieces.push_back({shard, index, plan.offsets.back(), piece.box});
  }
  file.close_and_sync();
  return plan;
}

FileDigest fill_shard(const ShardPlan& plan, std::span<const Piece> pieces,
                      const std::function<void()>& before_block) {
  File file = File::open_to_write(plan.path);
  FileDigest digest{file.size(), {}};
  std::vector<std::size_t> order;  // of the pieces in the file
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (plan.offsets[i] >= 0) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return plan.offsets[a] < plan.offsets[b]; });

  Xxh3 hash;
  std::vector<char> structure;  // of HDF5, between the pieces: it is in the file already
  std::size_t next = 0;         // the first piece that is not written to its end
  for (std::int64_t begin = 0; begin < digest.bytes; begin += checksum_block_bytes) {
    before_block();
    const std::int64_t end = std::min(begin + checksum_block_bytes, digest.bytes);
    for (std::int64_t at = begin; at < end;) {
      const std::int64_t piece_at = next < order.size() ? plan.offsets[order[next]] : digest.bytes;
      if (at < piece_at) {
        const std::int64_t count = std::min(end, piece_at) - at;
        structure.resize(static_cast<std::size_t>(count));
        file.read(at, structure.data(), count);
        hash.add(structure.data(), count);
        at += count;
        continue;
      }
      const Tensor& data = pieces[order[next]].data;
      const std::int64_t count = std::min(end, piece_at + data.bytes()) - at;
      const char* const bytes = static_cast<const char*>(data.raw()) + at - piece_at;
      hash.add(bytes, count);
      file.write(at, bytes, count);
      at += count;
      if (at == piece_at + data.bytes()) ++next;
    }
    digest.blocks.push_back(hash.digest());
    file.start_sync(begin, end - begin);
  }
  file.sync();
  file.close();
  return digest;
}

std::vector<std::string> structure_problems(const std::string& path, const StoredTensors& tensors, int shard) {
  // Its checksums are right, but whoever wrote the shard may have written the manifest.
  std::string text;
  try {
    text = in_child_process([&] { return fmt::format("{}", fmt::join(compare(path, tensors, shard), "\n")); });
  } catch (const Failure& failure) {
    text = fmt::format("{}: the HDF5 library cannot read it: {}", path, failure.what());
  }
  std::vector<std::string> problems;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) problems.push_back(line);
  return problems;
}

}  // namespace hysparse
