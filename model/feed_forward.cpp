#include "model/feed_forward.h"

#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/swiglu.h"

namespace hysparse {

Var SwigluWeights::forward(Tape& tape, const Var& x) const {
  return linear(tape, swiglu(tape, linear(tape, x, *gate), linear(tape, x, *up)), *down);
}

FeedForward::FeedForward(const ModelConfig& config, std::int64_t layer, const ParameterSet& parameters,
                         const ExpertParallel& experts)
    : config_(config), layer_(layer), group_(experts) {
  const auto find = [&](const std::string& name) {
    return parameters.find(fmt::format("model.layers.{}.mlp.{}", layer, name));
  };
  const auto three = [&](const std::string& module, auto& weights) {
    weights.gate = find(module + "gate_proj.weight");
    weights.up = find(module + "up_proj.weight");
    weights.down = find(module + "down_proj.weight");
  };
  if (config.is_moe(layer)) {
    router_ = find("gate.weight");
    bias_ = find("gate.e_score_correction_bias");
    three("experts.", experts_);
    three("shared_experts.", dense_);
  } else {
    three("", dense_);
  }
  HYSPARSE_CHECK(router_ != nullptr || dense_.gate != nullptr, "layer {}", layer);
}

FeedForward::Result FeedForward::forward(Tape& tape, const Var& x, const Sequences& sequences,
                                         const TensorParallel& tp, const Tensor& chosen_experts,
                                         const Seen& seen) const {
  Var dense;
  if (dense_.gate != nullptr) dense = tp.leave(tape, dense_.forward(tape, tp.enter(tape, x)));
  if (!is_moe()) return {dense, std::nullopt, {}};
  const TokenSlice slice = tp.slice(sequences.tokens());
  const Var tokens = tp.split(tape, x);
  const Tensor bias = bias_ != nullptr ? bias_->value : Tensor();
  const auto choose = [&](const Tensor& chosen) {
    return route(tape, tokens, *router_, bias, *config_.moe, sequences.seq_len, slice, chosen);
  };
  Routing routing = choose(chosen_experts);
  if (seen && !chosen_experts.defined()) {
    if (const Tensor instead = seen(routing, slice, bias); instead.defined()) routing = choose(instead);
  }
  Var out = moe_experts(tape, tokens, routing, experts_, config_.moe->num_experts, *group_.group, group_.etp);
  out = tp.join(tape, out, sequences.tokens());
  if (dense.value.defined()) out = add(tape, out, dense);
  return {out, std::move(routing), slice};
}

}  // namespace hysparse
