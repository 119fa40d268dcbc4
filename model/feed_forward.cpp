#include "model/feed_forward.h"

#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/swiglu.h"

namespace hysparse {

Var SwigluWeights::forward(Tape& tape, const Var& x) const {
  return linear(tape, swiglu(tape, linear(tape, x, *gate), linear(tape, x, *up)), *down);
}

FeedForward::FeedForward(const ModelConfig& config, std::int64_t layer, const ParameterSet& parameters)
    : config_(config), layer_(layer) {
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

FeedForward::Result FeedForward::forward(Tape& tape, const Var& x, std::int64_t seq_len,
                                         Communicator& ep) const {
  if (!is_moe()) return {dense_.forward(tape, x), std::nullopt};
  Routing routing = route(tape, x, *router_, bias_ != nullptr ? bias_->value : Tensor(), *config_.moe, seq_len);
  Var out = moe_experts(tape, x, routing, experts_, config_.moe->num_experts, ep);
  if (dense_.gate != nullptr) out = add(tape, out, dense_.forward(tape, x));
  return {out, std::move(routing)};
}

}  // namespace hysparse
