/// Weights from an export directory: config.json and safetensors of any format that hysparse writes
/// (export/format.h), from this program or from transformers.
#pragma once

#include <memory>
#include <string>

#include "launch/model_source.h"

namespace hysparse {

std::unique_ptr<ModelSource> open_export_source(const std::string& directory);

}  // namespace hysparse
