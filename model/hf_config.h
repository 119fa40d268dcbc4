/// config.json of an export <-> ModelConfig. Keys and defaults: docs/export.md; unknown keys are ignored.
#pragma once

#include <functional>
#include <string>

#include "model/config.h"

namespace hysparse {

/// What the weights of an export say, for keys that config.json may leave out.
struct ExportedWeights {
  /// Shape of a parameter, empty optional when the export has none of that name.
  std::function<std::optional<std::vector<std::int64_t>>(const std::string&)> shape;
};

/// Reads the text of a config.json. Missing keys take the reference's defaults or, where the reference looks at
/// the weights (gates, sinks, correction bias, shared experts), are read off `weights`. Throws Error naming
/// `file`, the key, its value and what is allowed; model_problems() are included.
ModelConfig model_config_from_json(const std::string& text, const std::string& file,
                                   const ExportedWeights& weights);

/// max_position_embeddings of a config.json, 0 when it says none.
std::int64_t max_positions_from_json(const std::string& text);

/// The text of config.json for model_type "hysparse".
std::string model_config_to_json(const ModelConfig& config, std::int64_t max_position_embeddings,
                                 const std::string& torch_dtype);

}  // namespace hysparse
