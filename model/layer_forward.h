/// One decoder layer on a micro-batch, with recomputation.
#pragma once

#include <optional>

#include "model/model.h"

namespace hysparse {

/// The norm of the residual stream, after adding `delta` to it.
Var norm(Tape& tape, ResidualStream& x, const Parameter& weight, double eps);

struct LayerOutput {
  ResidualStream stream;
  Var load_balance, z;              ///< undefined where the config has none
  std::optional<RoutingLoad> load;  ///< of a MoE layer
};

/// x += attention(norm(x)); x += feed_forward(norm(x)). A full layer sets `oracle`, its followers read it.
LayerOutput forward_layer(Tape& tape, const ModelConfig& config, const ModelOptions& options,
                          const Layer& layer, const MicroBatch& batch, const ResidualStream& in,
                          std::optional<Oracle>& oracle);

}  // namespace hysparse
