/// manifest.json: written last, so a step with a manifest is complete. Its last line is a checksum of the text
/// before, so that damage anywhere in it is noticed.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/file.h"
#include "core/error.h"

namespace hysparse {

inline constexpr std::string_view manifest_file = "manifest.json";

/// A checksum covers this much of a shard: a reader verifies the blocks that it needs, and no more.
inline constexpr std::int64_t checksum_block_bytes = 4 << 20;

/// A checkpoint that is not what was written: truncated, damaged, a file missing. One of an earlier step may be
/// sound.
class DamagedCheckpoint : public Error {
 public:
  using Error::Error;
};

/// Where a piece lies.
struct StoredPiece {
  int shard;
  int index;        ///< among the pieces of this tensor in the shard: dataset_name(name, index)
  std::int64_t at;  ///< where its elements begin in the file
  Box box;
};

struct StoredTensor {
  DType dtype;
  Shape global_shape;
  std::vector<StoredPiece> pieces;
};
using StoredTensors = std::map<std::string, StoredTensor>;

struct Manifest {
  CheckpointInfo info;
  std::int64_t block_bytes = checksum_block_bytes;  ///< of the shards' checksums
  std::vector<FileDigest> shards;                   ///< of shard_name(0), shard_name(1), ...
  StoredTensors tensors;
};

/// "shard-00000.h5".
std::string shard_name(int shard);
/// "<name>", and "<name>@1", "<name>@2" for further pieces.
std::string dataset_name(const std::string& name, int index);

std::string manifest_text(const Manifest& manifest);
/// Throws DamagedCheckpoint naming `path` unless the text is sound in itself: checksum, version, shapes, boxes
/// inside their tensors.
Manifest parse_manifest(std::string_view text, const std::string& path);
/// Reads step_directory/manifest.json.
Manifest read_manifest(const std::string& step_directory);

/// Throws DamagedCheckpoint unless every shard is there with the size that the manifest gives.
void check_shard_sizes(const Manifest& manifest, const std::string& step_directory);

/// Elements of `box` that no piece holds; none when the pieces cover it.
std::optional<Box> uncovered(const StoredTensor& tensor, const Box& box);

/// What a rank tells the one that writes the manifest: its shard's digest and tensors. Through a file beside
/// the shard, which goes before the manifest appears.
struct ShardReport {
  FileDigest digest;
  StoredTensors tensors;
};
/// "shard-00000.json".
std::string report_name(int shard);
std::string report_text(const ShardReport& report);
ShardReport parse_report(std::string_view text, int shard);

/// Adds a shard's tensors. Throws Failure when ranks disagree on a tensor's shape or dtype.
void add_report(const ShardReport& report, Manifest* manifest);

}  // namespace hysparse
