/// The feed-forward part of one layer: a dense SwiGLU, or routed experts with optional shared ones.
#pragma once

#include <functional>
#include <optional>

#include "model/attention_layer.h"
#include "model/config.h"
#include "model/parameter_set.h"
#include "moe/experts.h"
#include "moe/router.h"
#include "parallel/tensor_parallel.h"

namespace hysparse {

/// The ranks that experts are spread over: ep * etp of them, etp consecutive ones sharing each expert's width.
struct ExpertParallel {
  Communicator* group = nullptr;  ///< null: alone
  int etp = 1;
};

/// down (silu(gate x) * up x).
struct SwigluWeights {
  const Parameter* gate = nullptr;
  const Parameter* up = nullptr;
  const Parameter* down = nullptr;
  Var forward(Tape& tape, const Var& x) const;
};

class FeedForward {
 public:
  FeedForward(const ModelConfig& config, std::int64_t layer, const ParameterSet& parameters,
              const ExpertParallel& experts);

  bool is_moe() const { return router_ != nullptr; }
  std::int64_t layer() const { return layer_; }

  struct Result {
    Var out;                         ///< as x
    std::optional<Routing> routing;  ///< of a MoE layer: of this rank's slice of the tokens
    TokenSlice slice;
  };
  /// x in the layout of the residual stream. A MoE layer routes this tp rank's slice of the tokens; shared
  /// experts and dense layers split their width over tp. `chosen_experts` (i32 [slice, k], undefined at first):
  /// used instead of choosing (recomputation). `seen` is called with what the router has just chosen; what it
  /// returns, if defined, is taken instead. Collective.
  using Seen = std::function<Tensor(const Routing& routing, const TokenSlice& slice, const Tensor& bias)>;
  Result forward(Tape& tape, const Var& x, const Sequences& sequences, const TensorParallel& tp,
                 const Tensor& chosen_experts, const Seen& seen = {}) const;

 private:
  const ModelConfig& config_;
  std::int64_t layer_;
  SwigluWeights dense_;  ///< or the shared experts
  const Parameter* router_ = nullptr;
  const Parameter* bias_ = nullptr;
  ExpertWeights experts_;
  ExpertParallel group_;
};

}  // namespace hysparse
