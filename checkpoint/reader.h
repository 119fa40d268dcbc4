/// Reading a checkpoint, in any layout: a rank asks for boxes of global tensors. No communication.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"

namespace hysparse {

/// A tensor that a reader expects, or that a checkpoint holds.
struct TensorInfo {
  std::string name;
  Shape global_shape;
  DType dtype;
};

/// A box of a tensor, and where it goes: out.numel() elements.
struct ReadRequest {
  std::string name;
  Box box;
  Tensor out;
};

/// Reads only the blocks of the shards that hold what is asked for, and verifies each before it is used: throws
/// DamagedCheckpoint (manifest.h), naming the file and what is wrong with it, for a manifest or shard that is
/// missing, truncated, damaged, of another version, or not what the manifest says. Throws Error for what the
/// checkpoint does not hold. Not for several threads at once.
class CheckpointReader {
 public:
  /// A step directory (resolve_checkpoint, find_latest). `threads` of its own read and verify.
  explicit CheckpointReader(std::string step_directory, int threads = 1);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;

  const std::string& directory() const;
  const Manifest& manifest() const;
  const CheckpointInfo& info() const;
  /// Sorted by name.
  std::vector<TensorInfo> tensors() const;
  bool contains(const std::string& name) const;

  /// Throws Error unless each of `expected` is there with its global shape; dtypes may differ: a
  /// checkpoint of another model. One problem: the first that does not fit, and how many more.
  void require(std::span<const TensorInfo> expected) const;

  /// out <- the elements of the box (global coordinates), from all pieces that meet it, converted between float
  /// dtypes. All at once is faster than one by one: each block is read once. Throws Error also when there is no
  /// such tensor, it does not contain the box, or pieces leave a gap.
  void read(std::span<const ReadRequest> requests);
  void read(const std::string& name, const Box& box, const Tensor& out) {
    read(std::vector<ReadRequest>{{name, box, out}});
  }
  /// A whole tensor.
  Tensor read(const std::string& name, DType dtype);

  /// Verifies rank's share of the blocks that hold no elements, which read() has no need of: ranks that have
  /// read all tensors between them and each called this have verified every byte.
  void verify_rest(int rank, int ranks);
  /// Verifies every byte of every shard, that pieces cover every tensor, and that the shards' HDF5 structure is
  /// what the manifest says. One line for each thing that is wrong.
  std::vector<std::string> problems();
  /// Throws DamagedCheckpoint with the problems, if there are any.
  void verify();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hysparse
