/// Configuration of the mixture-of-experts layers.
#pragma once

#include <cstdint>

namespace hysparse {

enum class RouterScoring { softmax, sigmoid };

struct MoeConfig {
  std::int64_t num_experts = 16;         ///< X
  std::int64_t top_k = 2;                ///< k, experts per token
  std::int64_t intermediate_size = 128;  ///< F, width of one expert
  std::int64_t shared_experts = 0;       ///< n; one SwiGLU of width n * F over all tokens
  std::int64_t first_k_dense = 0;        ///< layers below this are dense
  RouterScoring scoring = RouterScoring::sigmoid;
  bool normalize_top_k = true;
  double routed_scaling = 1.0;
  bool has_correction_bias = true;  ///< e_score_correction_bias is declared
  double bias_update_rate = 0.001;  ///< u; 0: no correction bias in training
  double aux_loss = 0.0;            ///< coefficient of the load-balance loss
  double z_loss = 0.0;              ///< coefficient of mean logsumexp(logits)^2
  double capacity_factor = 0.0;     ///< 0: dropless
  bool balanced_routing = false;    ///< benchmarks: token t's slots go to experts (t * k + slot) % X
};

}  // namespace hysparse
