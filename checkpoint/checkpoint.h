/// What a checkpoint is made of, and where it lies. A run keeps its checkpoints in RUN/checkpoints:
///
///   latest                   names the newest step ("step-000100\n"); replaced by rename
///   step-000100/             complete: appears by rename, manifest and all
///     manifest.json          what is where: shards with sizes and checksums, tensors with shapes and pieces
///     shard-00000.h5 ...     one HDF5 file per rank
///   step-000200.tmp/         a save under way, or what a killed one left: not a checkpoint
///
/// Tensors are stored as pieces of a global tensor in global coordinates, so any layout reads any layout.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "parallel/placement.h"

namespace hysparse {

/// A part of a named global tensor: a parameter under its name, state under a prefix
/// ("optim/exp_avg/<parameter>"; a slash makes a group in the file). Pieces of all ranks together must cover
/// each tensor; where they overlap they must agree.
struct Piece {
  std::string name;
  Shape global_shape;
  Box box;      ///< global coordinates; may be empty
  Tensor data;  ///< box.shape.numel() elements, on the CPU
};

/// What a checkpoint says of the run, beside tensors.
struct CheckpointInfo {
  std::int64_t step = 0;
  std::int64_t tokens_seen = 0;
  std::uint64_t seed = 0;                    ///< of all random numbers: they are functions of it and the step
  std::string layout;                        ///< Mesh::str()
  std::map<std::string, std::int64_t> mesh;  ///< axis -> size
  std::map<std::string, std::string> data_state;  ///< the loader's position
  std::string config;                             ///< resolved, as text
  std::map<std::string, std::string> versions;    ///< program, libraries
};

/// RUN/checkpoints.
std::string checkpoints_directory(const std::string& run_directory);
/// "step-000100"; more digits where needed.
std::string step_name(std::int64_t step);
/// The step of such a name; none for any other name ("step-000100.tmp", "step-1").
std::optional<std::int64_t> step_of_name(std::string_view name);

/// Step directories that turned out to be damaged when they were read, and how.
using KnownDamage = std::map<std::string, std::string>;

/// The directory of the checkpoint to resume from: the step that `latest` names if that is complete (manifest
/// sound, every shard there with its size; checksums are verified on reading) and not among those known to be
/// damaged, else the newest that is, with a warning appended to `warnings` for each reason. None when the run
/// has no checkpoint. Throws Error when it has but none is complete: a run must not silently begin anew.
std::optional<std::string> find_latest(const std::string& run_directory, std::vector<std::string>* warnings,
                                       const KnownDamage& damaged = {});

/// A step of a run.
struct StepState {
  std::int64_t step;
  std::string directory;
  bool latest;        ///< `latest` names it
  std::string fault;  ///< why it is not complete; "" when it is, as far as is known without reading the shards
};
/// All that have a directory, oldest first.
std::vector<StepState> list_checkpoints(const std::string& run_directory);

/// Whether `path` is a step directory (holds a manifest).
bool is_step_directory(const std::string& path);

/// A step directory itself, or the latest of a run directory. Throws Error when `path` is neither.
std::string resolve_checkpoint(const std::string& path, std::vector<std::string>* warnings);

/// Removes what killed saves left in RUN/checkpoints, and puts back a step that was being replaced. Throws
/// Failure. Not while a save is under way there.
void remove_leftovers(const std::string& run_directory);

}  // namespace hysparse
