/// Keeps the experts of a training run in balance: gathers how many tokens each expert got over the global
/// batch, moves the routers' correction biases, and reports the load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model.h"
#include "model/parameter_set.h"
#include "parallel/communicator.h"

namespace hysparse {

class ExpertBalance {
 public:
  /// `parameters` must outlive the balance. Models without MoE layers are fine.
  ExpertBalance(const ModelConfig& config, const ParameterSet& parameters);

  /// Adds one micro-batch's counts.
  void add(const std::vector<RoutingLoad>& loads);

  struct LayerLoad {
    std::int64_t layer = 0;
    double max_over_mean = 1;  ///< largest expert load over the mean
  };
  struct Load {
    std::vector<LayerLoad> layers;
    double dropped = 0;  ///< fraction of assignments dropped by the capacity
  };
  /// Sums the counts over `data` (the ranks that saw other tokens), moves the biases unless `frozen` (bias_e +=
  /// u * sign(mean - load_e)), forgets the counts. Collective.
  Load finish_step(Communicator& data, bool frozen);

 private:
  std::int64_t num_experts_ = 0;
  double bias_update_rate_ = 0;
  std::vector<std::int64_t> layers_;
  std::vector<const Parameter*> biases_;  // null where there is none
  Tensor counts_;  // i64 [layers + 1, X]; the last row holds dropped assignments in column 0
};

}  // namespace hysparse
