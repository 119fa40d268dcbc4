/// The gated activation of the feed-forward layers (Shazeer, 2020).
#pragma once

#include "core/tape.h"

namespace hysparse {

/// silu(gate) * up, elementwise; silu(z) = z / (1 + e^-z). gate and up have one shape. Saves both.
Var swiglu(Tape& tape, const Var& gate, const Var& up);

}  // namespace hysparse
