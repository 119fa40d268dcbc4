/// Rotary position embedding in the half-split convention of Llama and Qwen, fused with the per-head RMSNorm
/// before it.
#pragma once

#include "core/tape.h"

namespace hysparse {

struct RopeConfig {
  double theta = 10000.0;
  std::int64_t rotary_dim = 0;  ///< even, <= head size; the first rotary_dim features of each head are rotated
};

/// Cosines and sines of positions `start`, ..., `start` + length - 1, for x of `dtype`: [length, rotary_dim].
Tensor rope_table(const Stream& stream, const RopeConfig& rope, std::int64_t start, std::int64_t length,
                  DType dtype);

/// y = rope(norm(x)) for each head. x [S*T, heads*E]; row r turns by row r % rows - documents[r] of the table
/// (documents: attention/documents.h, i32 [S*T]; the table begins with position 0 then) where defined.
/// norm: y = x * rsqrt(mean_E(x^2) + eps) * weight[E]; skipped when `norm_weight` is null. With half =
/// rotary_dim / 2 and angle_i = position * theta^(-2 i / rotary_dim): (a, b) -> (a cos - b sin, b cos + a sin)
/// for features i and i + half.
Var qk_norm_rope(Tape& tape, const Var& x, const Parameter* norm_weight, double eps, std::int64_t head_dim,
                 const Tensor& table, const Tensor& documents = {});
/// The same where the position of row r is `start` + r % seq_len, less documents[r] (`start` is 0 then).
Var qk_norm_rope(Tape& tape, const Var& x, const Parameter* norm_weight, double eps, std::int64_t head_dim,
                 std::int64_t seq_len, const RopeConfig& rope, std::int64_t start = 0,
                 const Tensor& documents = {});

}  // namespace hysparse
