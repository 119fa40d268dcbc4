/// Linear layers without bias.
#pragma once

#include "core/tape.h"

namespace hysparse {

/// y = x W^T. x [T, I], w [O, I] -> y [T, O]; T may be 0.
Var linear(Tape& tape, const Var& x, const Parameter& w);

}  // namespace hysparse
