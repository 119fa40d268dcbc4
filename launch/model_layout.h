/// How a run's configuration spreads its model.
#pragma once

#include "launch/run_config.h"
#include "model/layout.h"

namespace hysparse {

/// The chunks of parallel.pp * parallel.virtual_stages and the layout of tokens. Throws Error naming those keys
/// when the model has fewer hybrid blocks than chunks.
ModelLayout model_layout(const RunConfig& config);

}  // namespace hysparse
