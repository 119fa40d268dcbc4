/// Writing one HDF5 file of a checkpoint: a dataset per piece, named by dataset_name(), contiguous and
/// unfiltered, with the attributes global_shape, offset and dtype (bf16 is stored as u16); the file has the
/// attributes format, step and rank. HDF5 makes the structure; elements are written at the datasets' offsets by
/// plain writes, which tell of an error of the device where it happens.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"

namespace hysparse {

/// Where the elements of the pieces go.
struct ShardPlan {
  std::string path;
  std::vector<std::int64_t> offsets;  ///< in the file, of each piece; -1 for one without elements
  StoredTensors tensors;              ///< as the manifest lists them
};

/// Makes the file of rank `shard` with all datasets, their elements undefined, after it has taken all the room
/// that it needs on the disk. Throws Failure.
ShardPlan create_shard(const std::string& path, std::span<const Piece> pieces, std::int64_t step, int shard);

/// Writes the elements block by block, with the checksum of each, and syncs the file. `before_block` may throw
/// to give up. Throws Failure.
FileDigest fill_shard(const ShardPlan& plan, std::span<const Piece> pieces,
                      const std::function<void()>& before_block);

/// What is wrong with the structure of a shard whose checksums are those of the manifest, dataset by dataset:
/// each must be the piece that the manifest lists, and lie where it says. The HDF5 library reads it, as other
/// programs will, in a child process: it crashes on files made to do that.
std::vector<std::string> structure_problems(const std::string& path, const StoredTensors& tensors, int shard);

}  // namespace hysparse
