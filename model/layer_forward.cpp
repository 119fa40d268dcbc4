#include "model/layer_forward.h"

#include "core/ops/rms_norm.h"
#include "core/recompute.h"

namespace hysparse {
namespace {

/// What the first run of a layer chose, for the second to use: choices are made once.
struct Choices {
  std::optional<BlockLists> blocks;
  Tensor experts;
  std::optional<RoutingLoad> load;
};

/// The layer's parts as segments over one shared state; segments outlive the forward pass.
class LayerRun {
 public:
  LayerRun(const ModelConfig& config, const ModelOptions& options, const Layer& layer, const MicroBatch& batch,
           const std::optional<Oracle>& oracle)
      : config_(config),
        options_(options),
        layer_(layer),
        sequences_{batch.sequences, batch.seq_len, batch.documents},
        first_row_(batch.first_sequence * batch.seq_len),
        oracle_blocks_(oracle ? std::optional(oracle->blocks) : std::nullopt),
        choices_(std::make_shared<Choices>()) {}

  /// {x, oracle k, oracle v} -> {attention(x), k, v}: k, v of a layer that feeds followers.
  std::vector<Var> attention(Tape& tape, std::span<const Var> in) const {
    std::optional<Oracle> oracle;
    if (oracle_blocks_) oracle = Oracle{in[1], in[2], *oracle_blocks_};
    const Var out = layer_.attention.forward(tape, in[0], sequences_, options_.tp, layer_.feeds_followers,
                                             oracle, choices_->blocks, blocks_seen());
    if (!layer_.feeds_followers) return {out, Var{}, Var{}};
    return {out, oracle->k, oracle->v};
  }

  /// {x} -> {feed_forward(x), load-balance loss, z loss}.
  std::vector<Var> feed_forward(Tape& tape, std::span<const Var> in) const {
    FeedForward::Result ff =
        layer_.feed_forward.forward(tape, in[0], sequences_, options_.tp, choices_->experts, experts_seen());
    if (!ff.routing) return {ff.out, Var{}, Var{}};
    const Routing& routing = *ff.routing;
    choices_->experts = routing.chosen_ids;
    choices_->load = RoutingLoad{layer_.feed_forward.layer(), routing.expert_counts, routing.dropped};
    Var balance, z;
    if (config_.moe->aux_loss > 0) balance = load_balance_loss(tape, routing, sequences_.seq_len, ff.slice);
    if (config_.moe->z_loss > 0) z = z_loss(tape, routing);
    return {ff.out, balance, z};
  }

  /// {hidden, delta, oracle k, oracle v} -> {hidden, delta, k, v, load-balance loss, z loss}.
  std::vector<Var> layer(Tape& tape, std::span<const Var> in) const {
    ResidualStream x{in[0], in[1]};
    const bool parts_again = options_.recompute == Recompute::selective;
    const std::vector<Var> attended =
        run(tape, parts_again, {norm(tape, x, *layer_.input_norm), in[2], in[3]}, &LayerRun::attention);
    x.delta = attended[0];
    const std::vector<Var> fed =
        run(tape, parts_again, {norm(tape, x, *layer_.post_attention_norm)}, &LayerRun::feed_forward);
    return {x.hidden, fed[0], attended[1], attended[2], fed[1], fed[2]};
  }

  /// A part, now and again in backward when `again`.
  std::vector<Var> run(Tape& tape, bool again, std::vector<Var> inputs,
                       std::vector<Var> (LayerRun::*part)(Tape&, std::span<const Var>) const) const {
    if (!again) return (this->*part)(tape, inputs);
    return recompute(tape, std::move(inputs),
                     [self = *this, part](Tape& t, std::span<const Var> in) { return (self.*part)(t, in); });
  }

  const Choices& choices() const { return *choices_; }

 private:
  Var norm(Tape& tape, ResidualStream& x, const Parameter& weight) const {
    return hysparse::norm(tape, x, weight, config_.rms_norm_eps);
  }

  AttentionLayer::Seen blocks_seen() const {
    if (options_.choices == nullptr) return {};
    return [this](const AttentionLayer::Projections& own, const AttentionShape& shape, BlockLists& chosen) {
      const TensorParallel& tp = options_.tp;
      const std::int64_t first_group = tp.rank() * config_.num_kv_heads / tp.size();
      options_.choices->blocks(
          {layer_.feed_forward.layer(), first_row_, first_group, own.q.value, own.k.value, shape}, chosen);
    };
  }
  FeedForward::Seen experts_seen() const {
    if (options_.choices == nullptr) return {};
    return [this](const Routing& routing, const TokenSlice& slice, const Tensor& bias) {
      return options_.choices->experts({layer_.feed_forward.layer(), first_row_ + slice.begin, routing, bias});
    };
  }

  const ModelConfig& config_;
  const ModelOptions& options_;
  const Layer& layer_;
  Sequences sequences_;
  std::int64_t first_row_;
  std::optional<BlockLists> oracle_blocks_;
  std::shared_ptr<Choices> choices_;
};

}  // namespace

Var norm(Tape& tape, ResidualStream& x, const Parameter& weight, double eps) {
  if (!x.delta.value.defined()) return rms_norm(tape, x.hidden, weight, eps);
  const ResidualNorm r = add_rms_norm(tape, x.hidden, x.delta, weight, eps);
  x = {r.sum, Var{}};
  return r.norm;
}

LayerOutput forward_layer(Tape& tape, const ModelConfig& config, const ModelOptions& options,
                          const Layer& layer, const MicroBatch& batch, const ResidualStream& in,
                          std::optional<Oracle>& oracle) {
  if (layer.attention.type() == LayerType::full_attention) oracle.reset();  // the block before is done
  const LayerRun run(config, options, layer, batch, oracle);
  std::vector<Var> inputs{in.hidden, in.delta, oracle ? oracle->k : Var{}, oracle ? oracle->v : Var{}};
  const std::vector<Var> out =
      run.run(tape, options.recompute == Recompute::layer, std::move(inputs), &LayerRun::layer);
  if (layer.feeds_followers) oracle = Oracle{out[2], out[3], *run.choices().blocks};
  return {{out[0], out[1]}, out[4], out[5], run.choices().load};
}

}  // namespace hysparse
