/// The feed-forward part of one layer: a dense SwiGLU, or routed experts with optional shared ones.
#pragma once

#include <optional>

#include "model/config.h"
#include "model/parameter_set.h"
#include "moe/experts.h"
#include "moe/router.h"

namespace hysparse {

/// down (silu(gate x) * up x).
struct SwigluWeights {
  const Parameter* gate = nullptr;
  const Parameter* up = nullptr;
  const Parameter* down = nullptr;
  Var forward(Tape& tape, const Var& x) const;
};

class FeedForward {
 public:
  FeedForward(const ModelConfig& config, std::int64_t layer, const ParameterSet& parameters);

  bool is_moe() const { return router_ != nullptr; }
  std::int64_t layer() const { return layer_; }

  struct Result {
    Var out;                         ///< [tokens, D]
    std::optional<Routing> routing;  ///< of a MoE layer
  };
  /// x [tokens, D]. Collective over `ep` for a MoE layer.
  Result forward(Tape& tape, const Var& x, std::int64_t seq_len, Communicator& ep) const;

 private:
  const ModelConfig& config_;
  std::int64_t layer_;
  SwigluWeights dense_;  ///< or the shared experts
  const Parameter* router_ = nullptr;
  const Parameter* bias_ = nullptr;
  ExpertWeights experts_;
};

}  // namespace hysparse
