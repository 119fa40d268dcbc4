/// The validation loss of a training run, spread over the data-parallel ranks.
#pragma once

#include <cstdint>

#include "data/sampler.h"
#include "model/parallel_model.h"
#include "parallel/process_group.h"

namespace hysparse {

/// Mean nats per target over the first min(windows, source.windows()) windows. Rank r of dp takes every size-th
/// batch; every rank makes the same number of forward passes, so that none waits for another. Collective.
double validation_loss(ParallelModel& model, WindowSource& source, std::int64_t windows, bool document_mask,
                       const ProcessGroups& groups);

}  // namespace hysparse
