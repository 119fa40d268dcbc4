/// Rotary position embedding in the half-split convention of Llama and Qwen, fused with the per-head RMSNorm
/// before it.
#pragma once

#include "core/tape.h"

namespace hysparse {

struct RopeConfig {
  double theta = 10000.0;
  std::int64_t rotary_dim = 0;  ///< even, <= head size; the first rotary_dim features of each head are rotated
};

/// y = rope(norm(x)) for each head. x [S*T, heads*E]; position of row r is `start` + r % seq_len, less
/// documents[r] (attention/documents.h: i32 [S*T]; `start` is 0 then) where defined.
/// norm: y = x * rsqrt(mean_E(x^2) + eps) * weight[E]; skipped when `norm_weight` is null. With half =
/// rotary_dim / 2 and angle_i = position * theta^(-2 i / rotary_dim): (a, b) -> (a cos - b sin, b cos + a sin)
/// for features i and i + half.
Var qk_norm_rope(Tape& tape, const Var& x, const Parameter* norm_weight, double eps, std::int64_t head_dim,
                 std::int64_t seq_len, const RopeConfig& rope, std::int64_t start = 0,
                 const Tensor& documents = {});

}  // namespace hysparse
