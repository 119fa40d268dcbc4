#include "model/model.h"

#include "core/ops/add.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/embedding.h"
#include "core/ops/rms_norm.h"

namespace hysparse {

Model::Model(const ModelConfig& config, const ParameterSet& parameters)
    : config_(config),
      embedding_(&parameters.get("model.embed_tokens.weight")),
      head_(config.tie_embeddings ? embedding_ : &parameters.get("lm_head.weight")),
      norm_(&parameters.get("model.norm.weight")) {
  for (std::int64_t i = 0; i < config_.num_layers(); ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    layers_.push_back({AttentionLayer(config_, i, parameters), FeedForward(config_, i, parameters),
                       &parameters.get(prefix + "input_layernorm.weight"),
                       &parameters.get(prefix + "post_attention_layernorm.weight"),
                       config_.feeds_followers(i)});
  }
}

Var Model::hidden(Tape& tape, const Tensor& tokens, std::int64_t sequences, std::int64_t seq_len,
                  Communicator& ep, LossResult* result) const {
  const double eps = config_.rms_norm_eps;
  Var x = hysparse::embedding(tape, tokens, *embedding_);
  Var delta;  // the last part's output, added to x by the norm that follows
  const auto norm = [&](const Parameter& weight) {
    if (!delta.value.defined()) return rms_norm(tape, x, weight, eps);
    const ResidualNorm r = add_rms_norm(tape, x, delta, weight, eps);
    x = r.sum;
    return r.norm;
  };
  std::optional<Oracle> oracle;
  for (const Layer& layer : layers_) {
    delta = layer.attention.forward(tape, norm(*layer.input_norm), sequences, seq_len, layer.feeds_followers,
                                    oracle);
    FeedForward::Result ff = layer.feed_forward.forward(tape, norm(*layer.post_attention_norm), seq_len, ep);
    delta = ff.out;
    if (result == nullptr || !ff.routing) continue;
    if (config_.moe->aux_loss > 0)
      result->load_balance.push_back(load_balance_loss(tape, *ff.routing, seq_len));
    if (config_.moe->z_loss > 0) result->z.push_back(z_loss(tape, *ff.routing));
    result->loads.push_back({layer.feed_forward.layer(), ff.routing->expert_counts, ff.routing->dropped});
  }
  return norm(*norm_);
}

LossResult Model::loss(Tape& tape, const Tensor& tokens, const Tensor& targets, std::int64_t sequences,
                       std::int64_t seq_len, Communicator& ep) const {
  LossResult result;
  const Var h = hidden(tape, tokens, sequences, seq_len, ep, &result);
  const CrossEntropy ce = linear_cross_entropy(tape, h, *head_, targets);
  result.loss_sum = ce.loss_sum;
  result.loss = ce.loss;
  result.targets = ce.targets;
  return result;
}

}  // namespace hysparse
