/// Experts over tokens of all ranks of their group: to the experts, grouped SwiGLU, back, summed per token
/// (moe/dispatch.h says where experts lie and what is sent).
#pragma once

#include "core/tape.h"
#include "moe/router.h"
#include "parallel/communicator.h"

namespace hysparse {

/// This rank's experts, stacked, and its part of their width F: gate, up [X/ep, F/etp, D], down [X/ep, D,
/// F/etp].
struct ExpertWeights {
  const Parameter* gate = nullptr;
  const Parameter* up = nullptr;
  const Parameter* down = nullptr;
};

/// y[t] = sum over slots of weights[t, slot] * expert_{ids[t, slot]}(x[t]); expert(x) = down (silu(gate x) * up
/// x). x [T, D] -> y [T, D]; T may be 0 or differ between ranks; experts without tokens are fine. `group` has
/// ep * etp ranks, each with tokens of its own. Gradients of x and of the routing weights are whole on the rank
/// of the token; those of the experts' weights are of all tokens of the group.
/// In a group of several ranks it is collective, also in backward: there a recorded result always wants a
/// gradient, so that a rank without tokens, or that wants no gradient, takes part; every rank must run backward
/// in the same order.
Var moe_experts(Tape& tape, const Var& x, const Routing& routing, const ExpertWeights& weights,
                std::int64_t num_experts, Communicator& group, int etp = 1);

}  // namespace hysparse
