#include "launch/expert_balance.h"

#include <algorithm>

#include "moe/balancing.h"

namespace hysparse {

ExpertBalance::ExpertBalance(const ModelConfig& config, const ParameterSet& parameters) {
  if (!config.moe) return;
  num_experts_ = config.moe->num_experts;
  bias_update_rate_ = config.moe->bias_update_rate;
  for (std::int64_t i = 0; i < config.num_layers(); ++i) {
    if (!config.is_moe(i)) continue;
    const std::string prefix = fmt::format("model.layers.{}.mlp.gate.", i);
    if (parameters.find(prefix + "weight") != nullptr)
      own_.push_back({layers_.size(), parameters.find(prefix + "e_score_correction_bias")});
    layers_.push_back(i);
  }
  counts_ = Tensor::zeros({static_cast<std::int64_t>(layers_.size()) + 1, num_experts_}, DType::i64);
}

void ExpertBalance::add(const std::vector<RoutingLoad>& loads) {
  for (const RoutingLoad& load : loads) {
    const auto at = std::find(layers_.begin(), layers_.end(), load.layer);
    HYSPARSE_CHECK(at != layers_.end(), "layer {}", load.layer);
    std::int64_t* row = counts_.data<std::int64_t>() + (at - layers_.begin()) * num_experts_;
    const Tensor counts = load.expert_counts.to_device(Device{}), dropped = load.dropped.to_device(Device{});
    for (std::int64_t e = 0; e < num_experts_; ++e) row[e] += counts.data<std::int64_t>()[e];
    counts_.data<std::int64_t>()[static_cast<std::int64_t>(layers_.size()) * num_experts_] +=
        *dropped.data<std::int64_t>();
  }
}

ExpertBalance::Load ExpertBalance::finish_step(const ProcessGroups& groups, bool frozen) {
  Load load;
  if (layers_.empty()) return load;
  groups.stage->all_reduce(counts_);
  const auto rows = static_cast<std::int64_t>(layers_.size());
  // max over mean of each layer, assignments, dropped: each in the place of its own, from one rank of its stage
  const Tensor figures = Tensor::zeros({rows + 2}, DType::f64);
  double* f = figures.data<double>();
  for (const OwnLayer& own : own_) {
    const auto i = static_cast<std::int64_t>(own.index);
    const Tensor counts = counts_.slice(i, i + 1).view({num_experts_});
    f[i] = load_metrics(counts, 0).max_over_mean;
    for (std::int64_t e = 0; e < num_experts_; ++e)
      f[rows] += static_cast<double>(counts.data<std::int64_t>()[e]);
    if (own.bias != nullptr && !frozen) update_correction_bias(own.bias->value, counts, bias_update_rate_);
  }
  f[rows + 1] = static_cast<double>(counts_.data<std::int64_t>()[rows * num_experts_]);
  groups.pp->all_reduce(figures);
  for (std::int64_t i = 0; i < rows; ++i) load.layers.push_back({layers_[static_cast<std::size_t>(i)], f[i]});
  if (f[rows] > 0) load.dropped = f[rows + 1] / f[rows];
  counts_.zero_();
  return load;
}

}  // namespace hysparse
