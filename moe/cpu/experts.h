/// Grouped SwiGLU experts. E experts with weights gate, up [E, F, D] and down [E, D, F] work on M rows sorted
/// by expert, of which expert e has [offsets[e], offsets[e + 1]). Row r reads row sources[r] of its inputs.
/// Threads take tiles of rows of one expert, the largest first; the result does not depend on which thread
/// takes which. Outputs alias nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace hysparse::cpu {

struct ExpertRows {
  std::vector<std::int64_t> offsets;  ///< [E + 1]
  Tensor sources;                     ///< i32 [M]
};

struct ExpertWeightTensors {
  Tensor gate, up, down;
};

/// out [M, D] = weights[r] * down (silu(gate x) * up x), x = the first D columns of x [.., C >= D].
struct ExpertsForward {
  ExpertRows rows;
  ExpertWeightTensors weights;
  Tensor x, row_weights;
  Tensor gate, up;  ///< [M, F]: gate x and up x, kept for backward
  Tensor out;
};
void experts_forward(const Stream& stream, const ExpertsForward& args);

/// From dout (like x in forward): drows [M, D + 1], the gradient of each row's x and, in the last column, of
/// its weight; and, by sorted row, what the gradients of the weights are made of.
struct ExpertsBackward {
  ExpertRows rows;
  ExpertWeightTensors weights;
  Tensor dout, row_weights, gate, up;
  Tensor drows;
  Tensor dout_rows;           ///< [M, D]: dout, sorted
  Tensor dgate, dup, hidden;  ///< [M, F]: gradients of gate x and up x; weights[r] * silu(gate x) * up x
};
void experts_backward(const Stream& stream, const ExpertsBackward& args);

/// dweights (each may be undefined) += the gradients of the stacked weights; those of experts without rows stay
/// untouched.
struct ExpertsWeightGradient {
  ExpertRows rows;
  Tensor x;                              ///< as in forward
  Tensor dout_rows, dgate, dup, hidden;  ///< from experts_backward
  ExpertWeightTensors dweights;
};
void experts_weight_gradient(const Stream& stream, const ExpertsWeightGradient& args);

}  // namespace hysparse::cpu
