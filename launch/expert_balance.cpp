#include "launch/expert_balance.h"

#include "moe/balancing.h"

namespace hysparse {

ExpertBalance::ExpertBalance(const ModelConfig& config, const ParameterSet& parameters) {
  if (!config.moe) return;
  num_experts_ = config.moe->num_experts;
  bias_update_rate_ = config.moe->bias_update_rate;
  for (std::int64_t i = 0; i < config.num_layers(); ++i) {
    if (!config.is_moe(i)) continue;
    layers_.push_back(i);
    biases_.push_back(parameters.find(fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", i)));
  }
  counts_ = Tensor::zeros({static_cast<std::int64_t>(layers_.size()) + 1, num_experts_}, DType::i64);
}

void ExpertBalance::add(const std::vector<RoutingLoad>& loads) {
  HYSPARSE_CHECK(loads.size() == layers_.size(), "{} loads for {} layers", loads.size(), layers_.size());
  for (std::size_t i = 0; i < loads.size(); ++i) {
    std::int64_t* row = counts_.data<std::int64_t>() + static_cast<std::int64_t>(i) * num_experts_;
    const std::int64_t* load = loads[i].expert_counts.data<std::int64_t>();
    for (std::int64_t e = 0; e < num_experts_; ++e) row[e] += load[e];
    counts_.data<std::int64_t>()[static_cast<std::int64_t>(layers_.size()) * num_experts_] += loads[i].dropped;
  }
}

ExpertBalance::Load ExpertBalance::finish_step(Communicator& data, bool frozen) {
  Load load;
  if (layers_.empty()) return load;
  data.all_reduce(counts_);
  const auto rows = static_cast<std::int64_t>(layers_.size());
  std::int64_t assignments = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    const Tensor counts = counts_.slice(i, i + 1).view({num_experts_});
    load.layers.push_back({layers_[static_cast<std::size_t>(i)], load_metrics(counts, 0).max_over_mean});
    for (std::int64_t e = 0; e < num_experts_; ++e) assignments += counts.data<std::int64_t>()[e];
    const Parameter* bias = biases_[static_cast<std::size_t>(i)];
    if (bias != nullptr && !frozen) update_correction_bias(bias->value, counts, bias_update_rate_);
  }
  const std::int64_t dropped = counts_.data<std::int64_t>()[rows * num_experts_];
  if (assignments > 0) load.dropped = static_cast<double>(dropped) / static_cast<double>(assignments);
  counts_.zero_();
  return load;
}

}  // namespace hysparse
