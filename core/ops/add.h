/// Sums and shapes: ops that move no numbers in backward.
#pragma once

#include "core/tape.h"

namespace hysparse {

/// a + b, of one shape.
Var add(Tape& tape, const Var& a, const Var& b);

/// Gives the gradient of a sum to its terms (either may be null), without a copy where one of them can keep the
/// buffer. To be called by the op that made the sum: `dout` is empty afterwards.
void add_backward(const Stream& stream, Gradient& dout, const std::shared_ptr<Gradient>& da,
                  const std::shared_ptr<Gradient>& db);

/// The same elements under another shape of as many; shares memory with x, so neither may be written to.
Var reshape(Tape& tape, const Var& x, Shape shape);

}  // namespace hysparse
