/// Weights from a training checkpoint.
#pragma once

#include <memory>
#include <string>

#include "launch/model_source.h"

namespace hysparse {

/// `path`: a run directory (its latest step) or one step directory. Throws Error when it is neither.
std::unique_ptr<ModelSource> open_checkpoint_source(const std::string& path);

}  // namespace hysparse
