/// What generate prints about caches and speed.
#pragma once

#include <nlohmann/json.hpp>

#include "launch/generation.h"

namespace hysparse {

/// The cache of `tokens` tokens by formula.
nlohmann::ordered_json kv_json(const ModelConfig& config, std::int64_t tokens, DType dtype);
void print_kv(const ModelConfig& config, std::int64_t tokens, DType dtype);

/// Of all sequences together: by formula for what there was room for, and from the tensors.
nlohmann::ordered_json kv_json(const ModelConfig& config, const Generation& generation, DType dtype);
void print_kv(const ModelConfig& config, const Generation& generation, DType dtype);

}  // namespace hysparse
