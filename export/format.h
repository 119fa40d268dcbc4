/// The model classes that an export can be written for: what each can hold, what it calls the tensors, and its
/// config.json, both ways. docs/export.md.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/export_names.h"
#include "model/hf_config.h"

namespace hysparse {

enum class ExportFormat {
  hysparse,   ///< HySparseForCausalLM, with the two Python files (python_files.h): every model
  qwen3_moe,  ///< Qwen3MoeForCausalLM: full attention, q/k norm, softmax router
  mixtral,    ///< MixtralForCausalLM: full attention, softmax router that renormalises
  glm4_moe,   ///< Glm4MoeForCausalLM: full attention, sigmoid router with correction bias, shared experts
  qwen3,      ///< Qwen3ForCausalLM: full attention, q/k norm, dense
};

/// "hysparse", ...; also the model_type of config.json. And back, nullopt when the name is none of them.
const char* export_format_name(ExportFormat format);
std::optional<ExportFormat> export_format_from(const std::string& name);
/// "Qwen3MoeForCausalLM", ...
const char* export_class_name(ExportFormat format);

/// Why the class cannot hold the model: each names the option in the way, its value and what the class has.
/// Empty when it can.
std::vector<std::string> obstacles(ExportFormat format, const ModelConfig& config);
/// --format auto: the stock class that holds the model, else hysparse.
ExportFormat natural_format(const ModelConfig& config);

/// What the class calls a tensor of ours (model/export_names.h).
std::string class_tensor_name(ExportFormat format, const std::string& name);

/// Tensors that the class wants and the model has not: all zeros.
std::vector<ExportName> zero_tensors(ExportFormat format, const ModelConfig& config);

struct ExportConfig {
  std::int64_t max_position_embeddings = 0;
  std::string dtype = "float32";             ///< as torch calls it
  std::optional<std::int32_t> eos_token_id;  ///< that ends a document
};
/// The text of config.json.
std::string class_config_json(ExportFormat format, const ModelConfig& config, const ExportConfig& more);
std::string generation_config_json(const ExportConfig& more);

/// The format of a config.json by its model_type; hysparse when it says none. Throws Error naming `file` for a
/// model_type that is none of them.
ExportFormat format_of_config(const std::string& text, const std::string& file);
/// Reads the config.json of any format. Throws Error naming `file`, the key, its value and what is allowed.
ModelConfig config_from_class_json(ExportFormat format, const std::string& text, const std::string& file,
                                   const ExportedWeights& weights);

}  // namespace hysparse
