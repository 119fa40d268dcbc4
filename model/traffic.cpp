#include "model/traffic.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/buckets.h"
#include "moe/balancing.h"
#include "moe/capacity.h"

namespace hysparse {
namespace {

constexpr std::int64_t double_bytes = 8;  // of a double or an i64
constexpr std::int64_t id_bytes = 4;      // of a block index

class Counter {
 public:
  Counter(const ModelConfig& config, const Mesh& mesh, const ModelLayout& layout, const TrainingStep& step)
      : c_(config),
        mesh_(mesh),
        layout_(layout),
        step_(step),
        tp_(mesh.size(Axis::tp)),
        stages_(mesh.size(Axis::pp)),
        stage_ranks_(mesh.size(Axis::stage)),
        data_ranks_(mesh.size(Axis::dp)),
        sequence_parallel_(layout.sequence_parallel && tp_ > 1),
        element_(dtype_size(step.dtype)),
        tokens_(step.sequences * step.seq_len),
        backwards_(step.micro_batches),
        forwards_(step.recompute == Recompute::none ? backwards_ : 2 * backwards_) {
    HYSPARSE_CHECK(mesh.size(Axis::cp) == 1 && (step.dtype == DType::f32 || step.dtype == DType::f64),
                   "cp {}, {}", mesh.size(Axis::cp), dtype_name(step.dtype));
    for (std::int64_t i = 0; i < c_.num_layers(); ++i) moe_layers_ += c_.is_moe(i) ? 1 : 0;
  }

  TrafficTable run() {
    // The embedding is left and the head entered, once each.
    enter_and_leave(step_.micro_batches);
    on_each_rank_of_a_stage(Axis::tp, "all_gather", step_.micro_batches, tokens_ * 2 * double_bytes);
    for (std::int64_t i = 0; i < c_.num_layers(); ++i) layer(i);
    boundaries();
    for (int stage = 0; stage < stages_; ++stage) reductions(stage);
    balance();
    if (mesh_.world() > 1) {
      add(Axis::world, "all_reduce", mesh_.world(), double_bytes);                        // the norm
      add(Axis::world, "all_reduce", mesh_.world(), (2 + mesh_.world()) * double_bytes);  // the report
    }
    return std::move(table_);
  }

 private:
  void add(Axis axis, const char* operation, std::int64_t calls, std::int64_t bytes_per_call) {
    if (mesh_.size(axis) == 1 || calls == 0) return;
    Traffic& t = table_[std::string(axis_name(axis))][operation];
    t.calls += calls;
    t.bytes += calls * bytes_per_call;
  }
  void on_each_rank_of_a_stage(Axis axis, const char* operation, std::int64_t times, std::int64_t bytes) {
    add(axis, operation, times * stage_ranks_, bytes);
  }

  std::int64_t activation() const { return tokens_ * c_.hidden_size * element_; }
  /// Of the residual stream as it lies on a rank.
  std::int64_t residual() const { return sequence_parallel_ ? activation() / tp_ : activation(); }

  // ---- tensor parallelism --------------------------------------------------------------------------------
  /// One TensorParallel::enter and one leave, run `forwards` times and differentiated once per micro-batch.
  void enter_and_leave(std::int64_t forwards) {
    if (sequence_parallel_) {
      on_each_rank_of_a_stage(Axis::tp, "all_gather", forwards + backwards_, residual());
      on_each_rank_of_a_stage(Axis::tp, "reduce_scatter", forwards + backwards_, activation());
    } else {  // leave in forward, enter in backward
      on_each_rank_of_a_stage(Axis::tp, "all_reduce", forwards + backwards_, activation());
    }
  }

  void layer(std::int64_t index) {
    enter_and_leave(forwards_);  // attention
    if (c_.feeds_followers(index) && tp_ > c_.num_kv_heads) choose_together();
    if (!c_.is_moe(index) || c_.moe->shared_experts > 0) enter_and_leave(forwards_);
    if (c_.is_moe(index)) experts();
  }

  /// The oracle's choice among the ranks of a group; lists are kept for recomputation.
  void choose_together() {
    const std::int64_t blocks = (step_.seq_len + c_.sparse_block_size - 1) / c_.sparse_block_size;
    const std::int64_t top = std::min(c_.top_blocks(), blocks);
    on_each_rank_of_a_stage(Axis::tp, "all_to_all", step_.micro_batches, tokens_ * blocks * element_);
    // Each mate sends the lists of its rows to all mates: on the average those of all rows to one.
    on_each_rank_of_a_stage(Axis::tp, "all_to_all", step_.micro_batches, tokens_ * top * id_bytes);
  }

  // ---- experts -------------------------------------------------------------------------------------------
  void experts() {
    const MoeConfig& moe = *c_.moe;
    if (!sequence_parallel_) {  // join in forward, split in backward, padded to the longest slice
      const std::int64_t rows = (tokens_ + tp_ - 1) / tp_;
      on_each_rank_of_a_stage(Axis::tp, "all_gather", forwards_ + backwards_, rows * c_.hidden_size * element_);
    }
    if (moe.capacity_factor > 0)
      on_each_rank_of_a_stage(Axis::tp, "all_gather", forwards_, (moe.num_experts + 1) * double_bytes);
    if (moe.aux_loss > 0)
      on_each_rank_of_a_stage(Axis::tp, "all_reduce", forwards_,
                              step_.sequences * moe.num_experts * double_bytes);
    if (moe.balanced_routing) dispatch(moe);
  }

  void dispatch(const MoeConfig& moe) {
    if (mesh_.size(Axis::ep_etp) == 1) return;
    const auto counts = mesh_.size(Axis::ep_etp) * double_bytes;
    on_each_rank_of_a_stage(Axis::ep_etp, "all_to_all", forwards_, counts);
    // Rows to the experts and back, and their gradients likewise.
    on_each_rank_of_a_stage(Axis::ep_etp, "all_to_all", 2 * (forwards_ + backwards_), 0);
    if (rows_ < 0)
      rows_ = balanced_rows(moe, step_, mesh_.size(Axis::ep)) * mesh_.size(Axis::etp) * data_ranks_;
    const std::int64_t forward = 2 * c_.hidden_size + 2 * moe.top_k, backward = 2 * c_.hidden_size + moe.top_k;
    table_[std::string(axis_name(Axis::ep_etp))]["all_to_all"].bytes +=
        rows_ * (forwards_ * forward + backwards_ * backward) * element_;
  }

  // ---- pipeline ------------------------------------------------------------------------------------------
  /// Activations one way, their gradients the other.
  void boundaries() {
    const auto chunks = std::max<std::int64_t>(1, static_cast<std::int64_t>(layout_.chunks.size()));
    transfers(2 * step_.micro_batches * (chunks - 1) * stage_ranks_, residual());
  }

  void transfers(std::int64_t calls, std::int64_t bytes) {
    add(Axis::pp, "send", calls, bytes);
    add(Axis::pp, "receive", calls, 0);
  }

  // ---- gradients and parameters ----------------------------------------------------------------------------
  /// What a partial gradient is in the buffer of a stage: flat elements [begin, end), and how many of each the
  /// sum over its axis carries.
  struct PartialRange {
    Axis axis;
    MeshKind kind;
    std::int64_t shard_numel, begin, end, slots;
  };

  /// Of one stage's buckets.
  void reductions(int stage) {
    if (declarations_.empty())
      declarations_ =
          declare_parameters(c_, {tp_, mesh_.size(Axis::ep), mesh_.size(Axis::etp), stages_, layout_});
    const int first_rank = stage * stage_ranks_;
    std::vector<PartialRange> partial;
    for (const BucketPlan& plan : plan_buckets(declarations_, mesh_, first_rank, step_.dtype)) {
      const FlatBuffer::Layout buffer =
          FlatBuffer::lay_out(plan.kind, plan.parameters, mesh_, first_rank, step_.dtype);
      const Axis axis = data_axis(plan.kind);
      const std::int64_t shard = buffer.numel / mesh_.size(axis);
      add(axis, "reduce_scatter", stage_ranks_, buffer.numel * element_);
      add(axis, "all_gather", stage_ranks_, shard * element_);
      if (buffer.entries.front().declared.placement.is_tied()) transfers(stage_ranks_, shard * element_);
      add_partial(buffer, plan.kind, shard, partial);
    }
    for (int rank = first_rank; rank < first_rank + stage_ranks_; ++rank) partial_sums(rank, partial);
  }

  void add_partial(const FlatBuffer::Layout& buffer, MeshKind kind, std::int64_t shard,
                   std::vector<PartialRange>& partial) const {
    for (const FlatBuffer::Entry& entry : buffer.entries) {
      const Placement& placement = entry.declared.placement;
      const std::vector<Axis> axes = placement.partial_axes(mesh_);
      for (const auto& [axis, on_axis] : placement.model_axes()) {
        if (std::find(axes.begin(), axes.end(), axis) == axes.end()) continue;
        partial.push_back(
            {axis, kind, shard, entry.begin, entry.begin + entry.numel, on_axis.sharded ? on_axis.parts : 1});
      }
    }
  }

  /// One sum per axis of what a rank's shards hold of partial gradients.
  void partial_sums(int rank, const std::vector<PartialRange>& partial) {
    for (const Axis axis : {Axis::tp, Axis::ep, Axis::etp}) {
      std::int64_t total = 0;
      for (const PartialRange& p : partial) {
        if (p.axis != axis) continue;
        const std::int64_t begin = mesh_.coordinate(data_axis(p.kind), rank) * p.shard_numel;
        const std::int64_t common = std::min(p.end, begin + p.shard_numel) - std::max(p.begin, begin);
        total += std::max<std::int64_t>(0, common) * p.slots;
      }
      if (total > 0) add(axis, "all_reduce", 1, total * element_);
    }
  }

  /// The experts' load, for the biases and the report.
  void balance() {
    if (moe_layers_ == 0) return;
    add(Axis::stage, "all_reduce", mesh_.world(), (moe_layers_ + 1) * c_.moe->num_experts * double_bytes);
    add(Axis::pp, "all_reduce", mesh_.world(), (moe_layers_ + 2) * double_bytes);
  }

  const ModelConfig& c_;
  const Mesh& mesh_;
  const ModelLayout& layout_;
  const TrainingStep& step_;
  int tp_, stages_, stage_ranks_, data_ranks_;
  bool sequence_parallel_;
  std::int64_t element_, tokens_;
  std::int64_t backwards_, forwards_;  // of a layer
  std::int64_t moe_layers_ = 0;
  std::int64_t rows_ = -1;  // to the experts, of a micro-batch, from all ranks of a stage
  std::vector<ParameterDeclaration> declarations_;
  TrafficTable table_;
};

}  // namespace

TrafficTable step_traffic(const ModelConfig& config, const Mesh& mesh, const ModelLayout& layout,
                          const TrainingStep& step) {
  return Counter(config, mesh, layout, step).run();
}

std::int64_t balanced_rows(const MoeConfig& config, const TrainingStep& step, int ep) {
  const std::int64_t experts = config.num_experts, per_rank = experts / ep, k = config.top_k;
  const Tensor choices = balanced_choices(0, step.sequences * step.seq_len, k, experts);
  const std::int32_t* id = choices.data<std::int32_t>();
  const std::int64_t capacity =
      config.capacity_factor > 0 ? expert_capacity(config, step.seq_len) : step.seq_len;
  std::int64_t rows = 0;
  for (std::int64_t sequence = 0; sequence < step.sequences; ++sequence) {
    std::vector<std::int64_t> taken(static_cast<std::size_t>(experts), 0);
    for (std::int64_t t = 0; t < step.seq_len; ++t) {
      std::set<std::int64_t> ranks;
      for (std::int64_t slot = 0; slot < k; ++slot, ++id) {
        if (++taken[static_cast<std::size_t>(*id)] <= capacity) ranks.insert(*id / per_rank);
      }
      rows += static_cast<std::int64_t>(ranks.size());
    }
  }
  return rows;
}

}  // namespace hysparse
