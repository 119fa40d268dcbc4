/// The one list of a model's parameters: name, global shape, initial values, placement, weight decay.
/// Everything that needs to know a parameter (the model, the optimizer, checkpoints, exports, counts) derives
/// it from this list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/shape.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/layout.h"
#include "parallel/placement.h"

namespace hysparse {

enum class Initial { normal, ones, zeros };

struct ParameterDeclaration {
  std::string name;  ///< export name; experts stacked over dim 0 are declared once, as
                     ///< "...mlp.experts.gate_proj.weight"
  Shape shape;       ///< global
  Initial initial = Initial::normal;
  double init_std = 0;  ///< of Initial::normal
  Placement placement;
  bool weight_decay = true;  ///< false on norms, sinks, biases, embeddings
  bool trainable = true;     ///< false: a buffer without gradient (the router's correction bias)
  bool stacked_experts = false;
  std::int64_t layer = -1;  ///< -1: outside the layers
  int chunk = 0;            ///< global pipeline chunk that uses it first
};

/// What placements depend on: sizes of the mesh, and which chunk holds which layers.
struct ParallelSizes {
  int tp = 1, ep = 1, etp = 1, pp = 1;
  ModelLayout layout;
};

/// Every parameter of the model, in the order of the forward pass. Parameters that a variant never reads are
/// not declared.
std::vector<ParameterDeclaration> declare_parameters(const ModelConfig& config, const ParallelSizes& sizes);

/// The name of one expert of a stacked declaration: "...mlp.experts.M.gate_proj.weight".
std::string expert_name(const std::string& stacked_name, std::int64_t expert);

/// Fills `value` (this rank's box of the parameter, f32 or f64) with the initial values, a pure function of
/// seed, name and global index: the same whatever the layout.
void initialize(const ParameterDeclaration& declaration, const Box& box, std::uint64_t seed,
                const Tensor& value);

struct ParameterCounts {
  std::int64_t total = 0;
  std::int64_t active = 0;   ///< that multiply a token: head, router and gates in, embedding table out
  std::int64_t experts = 0;  ///< in routed experts
};
ParameterCounts count_parameters(const ModelConfig& config);

/// Model FLOPs per token of one training step (forward and backward, no recompute): 6 * active parameters, plus
/// per layer 12 * H * E * visible keys (full: (T + 1) / 2 on average; window: min(W, ..); sparse: top-k +
/// window), at sequence length T.
double model_flops_per_token(const ModelConfig& config, std::int64_t seq_len);

}  // namespace hysparse
