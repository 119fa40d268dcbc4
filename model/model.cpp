#include "model/model.h"

#include "core/ops/add.h"
#include "model/layer_forward.h"
#include "parallel/vocabulary.h"
#include "parallel/whereabouts.h"

namespace hysparse {

Model::Model(const ModelConfig& config, const ParameterSet& parameters, ModelOptions options)
    : config_(config),
      options_(std::move(options)),
      chunk_(options_.chunk.value_or(ChunkRange{0, config.num_layers()})) {
  if (options_.experts.group == nullptr) {
    alone_ = local_communicator("experts");
    options_.experts.group = alone_.get();
  }
  if (is_first()) embedding_ = &parameters.get("model.embed_tokens.weight");
  if (is_last()) {
    norm_ = &parameters.get("model.norm.weight");
    head_ = &parameters.get(config.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  }
  for (std::int64_t i = chunk_.first_layer; i < chunk_.last_layer; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    layers_.push_back(
        {AttentionLayer(config_, i, parameters), FeedForward(config_, i, parameters, options_.experts),
         &parameters.get(prefix + "input_layernorm.weight"),
         &parameters.get(prefix + "post_attention_layernorm.weight"), config_.feeds_followers(i)});
  }
}

void Model::announce(std::int64_t layer) const {
  at_layer(layer);
  if (options_.before_forward) options_.before_forward(layer);
}

void Model::mark(Tape& tape, const Var& hidden, std::int64_t layer) const {
  tape.record("layer", {hidden}, [this, layer] {
    at_layer(layer - 1);  // backward goes on there
    if (options_.after_backward) options_.after_backward(layer);
  });
}

ResidualStream Model::run_layers(Tape& tape, const MicroBatch& batch, ResidualStream x,
                                 std::optional<Oracle>& oracle, LossResult* result) const {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::int64_t index = chunk_.first_layer + static_cast<std::int64_t>(i);
    announce(index);
    mark(tape, x.hidden, index);
    LayerOutput out = forward_layer(tape, config_, options_, layers_[i], batch, x, oracle);
    x = out.stream;
    if (result == nullptr || !out.load) continue;
    if (out.load_balance.value.defined()) result->load_balance.push_back(out.load_balance);
    if (out.z.value.defined()) result->z.push_back(out.z);
    result->loads.push_back(std::move(*out.load));
  }
  return x;
}

Boundary Model::forward(Tape& tape, const MicroBatch& batch, Boundary in, LossResult* result) const {
  if (is_first()) {
    announce(-1);
    in = {vocabulary_embedding(tape, batch.tokens, *embedding_, options_.tp), std::nullopt};
  }
  std::optional<Oracle> oracle = std::move(in.oracle);
  ResidualStream x = run_layers(tape, batch, {in.hidden, Var{}}, oracle, result);
  if (!is_last()) {
    const LayerType next = config_.layer_types[static_cast<std::size_t>(chunk_.last_layer)];
    if (next != LayerType::sparse_attention) oracle.reset();
    return {x.delta.value.defined() ? add(tape, x.hidden, x.delta) : x.hidden, std::move(oracle)};
  }
  announce(config_.num_layers());
  const Var h = norm(tape, x, *norm_, config_.rms_norm_eps);
  HYSPARSE_CHECK(result != nullptr);
  const CrossEntropy ce = vocabulary_cross_entropy(tape, h, *head_, batch.targets, options_.tp);
  result->loss_sum = ce.loss_sum;
  result->loss = ce.loss;
  return {};
}

Var Model::hidden(Tape& tape, const MicroBatch& batch, LossResult* result) const {
  HYSPARSE_CHECK(is_first() && is_last(), "layers {} to {}", chunk_.first_layer, chunk_.last_layer);
  announce(-1);
  std::optional<Oracle> oracle;
  const Var embedded = vocabulary_embedding(tape, batch.tokens, *embedding_, options_.tp);
  ResidualStream x = run_layers(tape, batch, {embedded, Var{}}, oracle, result);
  announce(config_.num_layers());
  return norm(tape, x, *norm_, config_.rms_norm_eps);
}

LossResult Model::loss(Tape& tape, const MicroBatch& batch) const {
  HYSPARSE_CHECK(is_first() && is_last(), "layers {} to {}", chunk_.first_layer, chunk_.last_layer);
  LossResult result;
  forward(tape, batch, {}, &result);
  return result;
}

}  // namespace hysparse
