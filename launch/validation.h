/// The validation loss of a training run, spread over the data-parallel ranks.
#pragma once

#include <cstdint>

#include "data/sampler.h"
#include "model/model.h"
#include "parallel/communicator.h"

namespace hysparse {

/// Mean nats per token over the first min(windows, source.windows()) windows. Rank r of `data` takes every
/// size-th batch; every rank makes the same number of forward passes, so that expert parallelism never waits.
/// Collective over `data` and `ep`.
double validation_loss(const Model& model, SequentialWindows& source, std::int64_t windows,
                       const Stream& stream, Communicator& data, Communicator& ep);

}  // namespace hysparse
