/// Dropless dispatch of tokens to experts and back: permute, all-to-all over the ep group, grouped SwiGLU,
/// all-to-all, weighted combine. X experts lie over the ep ranks in contiguous runs of X/ep.
#pragma once

#include "core/tape.h"
#include "moe/router.h"
#include "parallel/communicator.h"

namespace hysparse {

/// This rank's experts, stacked: gate, up [X/ep, F, D], down [X/ep, D, F].
struct ExpertWeights {
  const Parameter* gate = nullptr;
  const Parameter* up = nullptr;
  const Parameter* down = nullptr;
};

/// y[t] = sum over slots of weights[t, slot] * expert_{ids[t, slot]}(x[t]); expert(x) = down (silu(gate x) * up
/// x). x [T, D] -> y [T, D]; T may be 0 or differ between ranks; experts without tokens are fine. Collective
/// over `ep`, also in backward: every rank of the group must run backward in the same order (a rank without
/// tokens too).
Var moe_experts(Tape& tape, const Var& x, const Routing& routing, const ExpertWeights& weights,
                std::int64_t num_experts, Communicator& ep);

}  // namespace hysparse
