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

namespace hysparse {

inline constexpr std::string_view manifest_file = "manifest.json";

/// Where a piece lies.
struct StoredPiece {
  int shard;
  int index;  ///< among the pieces of this tensor in the shard: dataset_name(name, index)
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
  std::vector<FileDigest> shards;  ///< of shard_name(0), shard_name(1), ...
  StoredTensors tensors;
};

/// "shard-00000.h5".
std::string shard_name(int shard);
/// "<name>", and "<name>@1", "<name>@2" for further pieces.
std::string dataset_name(const std::string& name, int index);

std::string manifest_text(const Manifest& manifest);
/// Throws Error naming `path` unless the text is sound in itself: checksum, version, shapes, boxes inside their
/// tensors.
Manifest parse_manifest(std::string_view text, const std::string& path);
/// Reads step_directory/manifest.json.
Manifest read_manifest(const std::string& step_directory);

/// Throws Error unless every shard is there with the size that the manifest gives.
void check_shard_sizes(const Manifest& manifest, const std::string& step_directory);

/// Elements of `box` that no piece holds; none when the pieces cover it.
std::optional<Box> uncovered(const StoredTensor& tensor, const Box& box);

/// What a rank tells the one that writes the manifest: its shard's digest and tensors.
struct ShardReport {
  FileDigest digest;
  StoredTensors tensors;
};
std::string report_text(const ShardReport& report);
ShardReport parse_report(std::string_view text, int shard);

/// Adds a shard's tensors. Throws Failure when ranks disagree on a tensor's shape or dtype.
void add_report(const ShardReport& report, Manifest* manifest);

}  // namespace hysparse
