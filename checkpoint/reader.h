/// Reading a checkpoint, in any layout: a rank asks for boxes of global tensors. No communication.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace hysparse {

/// A tensor that a reader expects, or that a checkpoint holds.
struct TensorInfo {
  std::string name;
  Shape global_shape;
  DType dtype;
};

/// Throws Error, naming the file and what is wrong with it, for a manifest or shard that is missing, truncated,
/// damaged, of another version, or not what the manifest says. A shard's checksum is verified when it is first
/// read. Not for several threads at once.
class CheckpointReader {
 public:
  /// A step directory (resolve_checkpoint, find_latest).
  explicit CheckpointReader(std::string step_directory);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;

  const std::string& directory() const;
  const CheckpointInfo& info() const;
  /// Sorted by name.
  std::vector<TensorInfo> tensors() const;
  bool contains(const std::string& name) const;

  /// Throws Error unless each of `expected` is there with its global shape; dtypes may differ: a
  /// checkpoint of another model. One problem: the first that does not fit, and how many more.
  void require(std::span<const TensorInfo> expected) const;

  /// out <- the elements of `box` (global coordinates, out.numel() of them), from all pieces that meet it,
  /// converted between float dtypes. Throws Error also when there is no such tensor, it does not contain the
  /// box, or pieces leave a gap.
  void read(const std::string& name, const Box& box, const Tensor& out);
  /// A whole tensor.
  Tensor read(const std::string& name, DType dtype);

  /// Verifies every shard's checksum and reads every piece.
  void verify();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hysparse
