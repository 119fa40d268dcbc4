/// Recomputation: a segment of the forward pass keeps its inputs alone and runs again when backward gets there,
/// on a tape of its own that is gone before backward goes on (Chen et al., 2016). docs/pipeline.md.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/tape.h"

namespace hysparse {

/// A part of the forward pass: builds its outputs on the tape it is given, from the inputs it is given. Called
/// twice, in forward and in backward, and must compute the same both times; collectives inside it run both
/// times. Choices (block lists, expert ids) are the caller's: filled in the first call, read in the second.
using Segment = std::function<std::vector<Var>(Tape&, std::span<const Var>)>;

/// body(tape, inputs), of which only the inputs are kept, through tape.save. Undefined Vars may be among inputs
/// and outputs; an input may be an output, a parameter's Var may not. Segments nest.
///
/// Bitwise the gradients of calling body directly: the second run adds to the inputs' own Gradient objects and
/// to the parameters' buffers, in the order in which the direct call would, from the gradients of the outputs,
/// which move into it (they are empty afterwards). The whole of it runs in the input half of backward.
///
/// On a tape that does not record: body(tape, inputs).
std::vector<Var> recompute(Tape& tape, std::vector<Var> inputs, Segment body);

}  // namespace hysparse
