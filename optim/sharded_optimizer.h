/// AdamW with its state sharded over the data-parallel ranks (ZeRO stage 1; Rajbhandari et al., 2020): dense
/// parameters over dp x cp, experts over edp. One step, after backward has left each rank's gradients in the
/// flat buffers:
///
///   reduce_gradients    partial replicas are summed over their model axis, then each rank gets the sum of its
///   shard global_norm         every element of every parameter counted once apply               AdamW on this
///   rank's shard gather_parameters   every rank gets the other shards' new values
///
/// The state is f32 (f64 in f64 runs), like the gradients. On the CPU the value buffer is in that dtype too,
/// and is the master: no second copy. With values in bf16 the master of a shard is a tensor of its own
/// (Part::master), which apply rounds into the value shard; nothing else changes, here or for the checkpoint,
/// which sees the master only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/device.h"
#include "optim/adamw.h"
#include "optim/cpu/sum_of_squares.h"
#include "parallel/flat_buffer.h"
#include "parallel/process_group.h"

namespace hysparse {

/// A box of one parameter whose state this rank holds: handles on the optimizer's own memory, flat, in the
/// box's row-major order. Write to them to load a checkpoint.
struct StatePiece {
  std::string name;
  Shape global_shape;
  Box box;         ///< within the local parameter
  Box global_box;  ///< within the global one: where the checkpoint keeps it
  bool owner;      ///< false: a copy that another rank owns (Placement::is_owner), to be loaded but not written
  Tensor value, exp_avg, exp_avg_sq;
};

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_; 1 when max_norm is 0 (no clipping).
double clip_scale(double norm, double max_norm);

class ShardedOptimizer {
 public:
  /// `buffers`: one per mesh kind, of this rank. All of them, the groups and the stream's pool must outlive
  /// this.
  ShardedOptimizer(const Stream& stream, const AdamWConfig& config, const ProcessGroups& groups,
                   std::vector<const FlatBuffer*> buffers);

  /// Afterwards gradient_shard() of each buffer holds the sum; the rest of the gradients is used up.
  /// Collective.
  void reduce_gradients();
  /// Norm over all parameters of the reduced gradients; bitwise the same on every rank and in every run of one
  /// layout. Collective.
  double global_norm();
  /// Counts a step; gradients are multiplied by gradient_scale first.
  void apply(double lr, double gradient_scale);
  /// Also needed after values were loaded into state(). Collective.
  void gather_parameters();

  /// All four, with clipping to max_norm; returns the norm before clipping.
  double step(double lr, double max_norm);

  /// Steps taken.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  /// What this rank holds, in the order of the buffers: with that of the other ranks, every parameter once per
  /// copy.
  std::vector<StatePiece> state() const;

 private:
  struct Part {
    const FlatBuffer* buffer;
    Communicator* group;                    // the data axis
    std::vector<FlatBuffer::Piece> pieces;  // of this rank's shard
    Tensor master;               // shard of the values in the state's dtype: a view of it, when that is theirs
    Tensor exp_avg, exp_avg_sq;  // (shard)
    std::vector<UpdateRange> updates;  // in the shard
    std::vector<cpu::Range> counted;   // in the shard: what the norm counts on this rank
  };
  void reduce_partial(const Part& part, Axis axis);

  Stream stream_;
  AdamWConfig config_;
  const ProcessGroups* groups_;
  std::vector<Part> parts_;
  std::int64_t steps_ = 0;
};

}  // namespace hysparse
