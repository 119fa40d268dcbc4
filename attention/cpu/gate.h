/// Kernels of gated_sum: see attention/gate.h for the formulas.
#pragma once

#include <span>

#include "core/device.h"
#include "core/tensor.h"

namespace hysparse::cpu {

struct GateInput {
  Tensor x;       ///< [T, H*E]
  Tensor logits;  ///< [T, H], [T, H*E], or undefined: gate 1
};

/// y = sum over branches of sigmoid(logits) * x. Overwrites y [T, H*E], which may not overlap an input.
void gated_sum_forward(const Stream& stream, std::span<const GateInput> branches, std::int64_t num_heads,
                       const Tensor& y);

/// Of one branch, whose x may be undefined where it has no logits: dx (+)= gate * dy; dlogits (+)= gate (1 -
/// gate) * dy * x, summed over each head where headwise.
void gated_sum_backward(const Stream& stream, const GateInput& branch, std::int64_t num_heads, const Tensor& dy,
                        const Tensor& dx, bool add_dx, const Tensor& dlogits, bool add_dlogits);

}  // namespace hysparse::cpu
