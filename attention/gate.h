/// Gated fusion of attention branches.
#pragma once

#include "core/tape.h"

namespace hysparse {

/// y = sum over branches of sigmoid(logits) * x, fused. Branch x [T, H*E]; logits [T, H] (headwise: one gate
/// per head), [T, H*E] (elementwise) or absent (an undefined Var value: gate 1). One or two branches.
struct GatedBranch {
  Var x;
  Var gate_logits;
};
Var gated_sum(Tape& tape, std::span<const GatedBranch> branches, std::int64_t num_heads);

}  // namespace hysparse
