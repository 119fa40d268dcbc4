/// How one parameter lies on the mesh. Declared once per parameter; the local shape, the slice a checkpoint
/// holds, the group that sums the gradient and the way the global norm counts each element once all follow from
/// it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/shape.h"
#include "parallel/mesh.h"

namespace hysparse {

/// An axis-aligned part of a tensor: `shape` elements from `offset` on, per dim.
struct Box {
  Shape offset;
  Shape shape;
  friend bool operator==(const Box&, const Box&) = default;
};

/// The part common to two boxes of one rank; false when empty.
bool intersect(const Box& a, const Box& b, Box* common);

/// The flat elements [begin, end) of a row-major box of `shape`, as at most 2 * rank - 1 boxes in order (a
/// partial row, whole rows, a partial row, per dim): what a rank owns of a flat buffer, as hyperslabs.
std::vector<Box> boxes_of_range(const Shape& shape, std::int64_t begin, std::int64_t end);

/// How a rank's gradient of a replicated parameter relates to the true one.
enum class Partial {
  equal,    ///< every rank on the axis holds the whole gradient
  partial,  ///< each rank holds one term of the sum (q/k norms under tp; norms and router under sequence
            ///< parallelism)
};

/// A parameter on one axis.
struct AxisPlacement {
  bool sharded = false;
  Partial grad = Partial::equal;  ///< replicated: see Partial
  int dim = 0;                    ///< sharded: the dim that is split
  int parts =
      0;  ///< sharded: number of distinct parts; below the axis size, consecutive ranks hold copies whose
          ///< gradients are partial (K, V when tp exceeds the groups). Divides or equals the axis size.

  static AxisPlacement replicate(Partial grad = Partial::equal) { return {false, grad, 0, 0}; }
  static AxisPlacement shard(int dim, int parts) { return {true, Partial::equal, dim, parts}; }
};

/// Which mesh a parameter lies on.
enum class MeshKind {
  dense,   ///< tp; gradient summed and optimizer sharded over dp x cp
  expert,  ///< etp, ep; gradient summed and optimizer sharded over edp
};

/// The axis over which gradients are summed and optimizer state is sharded: dp_cp or edp.
Axis data_axis(MeshKind kind);

struct Placement {
  MeshKind mesh = MeshKind::dense;
  AxisPlacement tp;   ///< dense
  AxisPlacement ep;   ///< expert
  AxisPlacement etp;  ///< expert; splits what ep leaves
  int stage = 0;      ///< pipeline stage that holds it
  /// Also held there (tied embeddings; -1 or the same stage: nowhere else). Gradients of the two copies are
  /// summed, so that the copies stay equal; the one on `stage` is the owner.
  int second_stage = -1;

  /// True when two stages hold it.
  bool is_tied() const { return second_stage >= 0 && second_stage != stage; }
  /// True on the ranks of its stage, or stages: the others hold no part of it.
  bool is_held(const Mesh& mesh, int rank) const;
  /// The part of a `global` parameter that `rank` holds. Throws CheckFailure when it holds none, when a sharded
  /// dim does not divide, or when the parts do not divide the axis.
  Box local_box(const Shape& global, const Mesh& mesh, int rank) const;
  /// True for exactly one rank among those that hold the same part at one data-parallel coordinate (on
  /// data_axis): the one whose copy the global norm counts and the checkpoint writes. False on the second stage
  /// and on ranks that hold nothing.
  bool is_owner(const Mesh& mesh, int rank) const;
  /// The axes over which gradients must be summed besides the data-parallel reduction (partial replicas; copies
  /// of a shard with parts below the axis size, where only the ranks that hold the same part are summed). Axes
  /// of size 1 are left out.
  std::vector<Axis> partial_axes(const Mesh& mesh) const;

  /// The axes of its mesh besides data and pipeline, each with how it lies on it: {tp} or {ep, etp}.
  std::vector<std::pair<Axis, AxisPlacement>> model_axes() const;
};

/// Which of `placement.parts` distinct parts a coordinate of an axis holds (consecutive coordinates hold
/// copies); 0 when replicated. Throws CheckFailure when the parts do not divide the axis.
int part_of(const AxisPlacement& placement, int axis_size, int coordinate);

}  // namespace hysparse
