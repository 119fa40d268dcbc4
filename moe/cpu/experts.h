/// Grouped SwiGLU experts. E experts with weights gate, up [E, F, D] and down [E, D, F] work on rows sorted by
/// expert, of which expert e has [offsets[e], offsets[e + 1]); results have M rows, of which those from
/// offsets[E] on are not written. Sorted row r reads row sources[r] of its inputs and has the weight
/// slot_weights[ assignments[r]] of the flat slot_weights. Outputs alias nothing. Here threads take tiles of
/// rows of one expert, the largest first; the result does not depend on which thread takes which.
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

struct ExpertRows {
  Tensor offsets;               ///< i32 [E + 1]
  Tensor sources, assignments;  ///< i32 [M]
};

struct ExpertWeightTensors {
  Tensor gate, up, down;
};

/// out [M, D] = weight * down (silu(gate x) * up x), x = the first D columns of x [.., C >= D]. slot_weights:
/// in the accumulation dtype of the rest.
struct ExpertsForward {
  ExpertRows rows;
  ExpertWeightTensors weights;
  Tensor x, slot_weights;
  Tensor gate, up;  ///< [M, F]: gate x and up x, kept for backward
  Tensor out;
};
void experts_forward(const Stream& stream, const ExpertsForward& args);

/// From dout (like x in forward): drows [M, D] and dslots [M] (like slot_weights), the gradients of each row's
/// x and weight; and, by sorted row, what the gradients of the weights are made of.
struct ExpertsBackward {
  ExpertRows rows;
  ExpertWeightTensors weights;
  Tensor dout, slot_weights, gate, up;
  Tensor drows, dslots;
  Tensor dgate, dup, hidden;  ///< [M, F]: gradients of gate x and up x; weight * silu(gate x) * up x
  Tensor dout_rows;           ///< made by kernels that want dout [M, D] sorted for the gradients of the weights
};
void experts_backward(const Stream& stream, ExpertsBackward& args);

/// dweights (each may be undefined; in the accumulation dtype) += the gradients of the stacked weights; those
/// of experts without rows stay untouched.
struct ExpertsWeightGradient {
  ExpertRows rows;
  Tensor x, dout;                        ///< as in forward and backward
  Tensor dout_rows, dgate, dup, hidden;  ///< from experts_backward
  ExpertWeightTensors dweights;
};
void experts_weight_gradient(const Stream& stream, const ExpertsWeightGradient& args);

}  // namespace hysparse::cpu
