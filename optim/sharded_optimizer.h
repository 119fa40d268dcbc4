/// AdamW with its state sharded over the data-parallel ranks (ZeRO stage 1; Rajbhandari et al., 2020): dense
/// parameters over dp x cp, experts over edp. One step, after backward has left each rank's gradients in the
/// flat buffers:
///
///   - reduce_gradients: each rank gets its shard of the sum over the data axis; then, on shards alone, tied
///     parameters' gradients are summed over their two stages, partial replicas over their model axis;
///   - global_norm: every element of every parameter counted once;
///   - apply: AdamW on this rank's shard;
///   - gather_parameters: every rank gets the other shards' new values.
///
/// Buffers are buckets: with start_reduce the sums run while backward works on earlier layers, with
/// start_gather the new values arrive while the next forward works on earlier ones. Either way the results are
/// bitwise those of the calls above.
///
/// The state is f32 (f64 in f64 runs), like the gradients, and lies where they lie. Values of that dtype are
/// themselves the master: no second copy. With values in bf16 the master of a shard is a tensor of its own
/// (Part::master), which apply rounds into the value shard; nothing else changes, here or for the checkpoint,
/// which sees the master only.
#pragma once

#include <cstdint>
#include <memory>
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
  /// `buffers`: of this rank, any number of either mesh kind, between them every parameter that is here once;
  /// the ranks of a stage have the same ones. A buffer holds parameters of one stage or of the same two (tied).
  /// All of them, the groups and the stream's pool must outlive this.
  ShardedOptimizer(const Stream& stream, const AdamWConfig& config, const ProcessGroups& groups,
                   std::vector<const FlatBuffer*> buffers);

  /// Starts the sum over the data axis of the gradients of buffer number `buffer`, which backward must be done
  /// with; the rest of backward may still run. Every rank starts the buffers in the same order. Nothing happens
  /// for one that is under way and for one with a parameter of two stages, whose gradients are not whole yet.
  void start_reduce(std::size_t buffer);
  /// Keeps what is under way going; cheap, to be called now and then from long computations.
  void progress();
  /// Starts what is not under way and waits for all. Afterwards gradient_shard() of each buffer holds the sum;
  /// the rest of the gradients is used up. Collective.
  void reduce_gradients();
  /// Norm over all parameters of the reduced gradients; bitwise the same on every rank and in every run of one
  /// layout. Collective.
  double global_norm();
  /// Counts a step; gradients are multiplied by gradient_scale first.
  void apply(double lr, double gradient_scale);
  /// Starts to bring every rank the other shards' values, buffer by buffer.
  void start_gather();
  /// The values of buffer number `buffer` may be used afterwards. Nothing happens when they are there.
  void wait_gathered(std::size_t buffer);
  /// For all buffers; needed before this goes away, if a gather was started.
  void wait_gathered();
  /// Both, for all buffers; also needed after values were loaded into state(), which it rounds first where the
  /// values are bf16. Collective.
  void gather_parameters();

  /// Makes the values those of the state: needed after values were written in the buffers themselves. Nothing
  /// to do where they are the state.
  void take_values();

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
    bool separate_master() const { return master.dtype() != buffer->values().dtype(); }
    Communicator* group;                    // the data axis
    std::vector<FlatBuffer::Piece> pieces;  // of this rank's shard
    Tensor master;               // shard of the values in the state's dtype: a view of it, when that is theirs
    Tensor exp_avg, exp_avg_sq;  // (shard)
    std::vector<UpdateRange> updates;  // in the shard
    std::vector<cpu::Range> counted;   // in the shard: what the norm counts on this rank
    int other_stage = -1;              // that holds these parameters too
    std::unique_ptr<Pending> reducing, gathering;
  };
  void add_other_stage(const Part& part);
  void reduce_partial(Axis axis);

  Stream stream_;
  AdamWConfig config_;
  const ProcessGroups* groups_;
  std::vector<Part> parts_;
  std::int64_t steps_ = 0;
};

}  // namespace hysparse
