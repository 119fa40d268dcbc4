/// Keeps the experts of a training run in balance: gathers how many tokens each expert got over the global
/// batch, moves the routers' correction biases, and reports the load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model.h"
#include "model/parameter_set.h"
#include "parallel/process_group.h"

namespace hysparse {

class ExpertBalance {
 public:
  /// `parameters` must outlive the balance. Models without MoE layers are fine, and stages without.
  ExpertBalance(const ModelConfig& config, const ParameterSet& parameters);

  /// Adds the counts of this rank's tokens.
  void add(const std::vector<RoutingLoad>& loads);

  struct LayerLoad {
    std::int64_t layer = 0;
    double max_over_mean = 1;  ///< largest expert load over the mean
  };
  struct Load {
    std::vector<LayerLoad> layers;  ///< every MoE layer of the model, on every rank
    double dropped = 0;             ///< fraction of assignments dropped by the capacity
  };
  /// Sums the counts over the ranks of the stage, moves the biases of its layers unless `frozen` (bias_e += u *
  /// sign(mean - load_e)), forgets the counts, brings the stages' figures together. Collective.
  Load finish_step(const ProcessGroups& groups, bool frozen);

 private:
  struct OwnLayer {
    std::size_t index;      // among the model's MoE layers
    const Parameter* bias;  // null where there is none
  };

  std::int64_t num_experts_ = 0;
  double bias_update_rate_ = 0;
  std::vector<std::int64_t> layers_;  // MoE layers of the model
  std::vector<OwnLayer> own_;         // those of this stage
  Tensor counts_;  // i64 [MoE layers of the model + 1, X]; the last row holds dropped assignments in column 0
};

}  // namespace hysparse
