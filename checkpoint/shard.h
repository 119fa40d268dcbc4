/// One HDF5 file of a checkpoint: a dataset per piece, named by dataset_name(), contiguous and unfiltered, with
/// the attributes global_shape, offset and dtype (bf16 is stored as u16); the file has the attributes format,
/// step and rank. HDF5 makes and reads the structure; elements move by plain reads and writes at the datasets'
/// offsets, so that a background thread need not call HDF5 and an error of the device is seen where it happens.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "core/hdf5.h"

namespace hysparse {

/// Where the elements of the pieces go.
struct ShardPlan {
  std::string path;
  std::vector<std::int64_t> offsets;  ///< in the file, of each piece; -1 for one without elements
  StoredTensors tensors;              ///< as the manifest lists them
};

/// Makes the file of rank `shard` with all datasets, their elements undefined. Calls HDF5. Throws Failure.
ShardPlan create_shard(const std::string& path, std::span<const Piece> pieces, std::int64_t step, int shard);

/// Writes the elements, syncs the file, and reads it once more for its digest. Does not call HDF5. Throws
/// Failure.
FileDigest fill_shard(const ShardPlan& plan, std::span<const Piece> pieces);

/// The shards of a step, opened and verified as they are needed; the last few stay open.
class ShardFiles {
 public:
  ShardFiles(std::string step_directory, std::vector<FileDigest> digests);

  /// Compares a shard's size and checksum with the manifest's, once. Throws Error.
  void verify(int shard);
  /// Verifies the piece's shard and compares its dataset with what the manifest says of it, once. Returns where
  /// its elements begin in the file. Throws Error.
  std::int64_t check(const std::string& name, const StoredTensor& tensor, const StoredPiece& piece);
  /// Copies the elements that the piece and `target` have in common to `out`, which holds `target` densely,
  /// converted to out's dtype. Checks the piece first.
  void read(const std::string& name, const StoredTensor& tensor, const StoredPiece& piece, const Box& target,
            const Tensor& out);

 private:
  std::string path_of(int shard) const;
  const File& open(int shard);

  std::string directory_;
  std::vector<FileDigest> digests_;
  std::vector<bool> verified_;
  std::deque<std::pair<int, File>> open_;
  std::unique_ptr<Hdf5File> hdf5_;  // of hdf5_shard_
  int hdf5_shard_ = -1;
  std::unordered_map<std::string, std::int64_t> offsets_;  // of datasets checked before, by "shard/dataset"
};

}  // namespace hysparse
