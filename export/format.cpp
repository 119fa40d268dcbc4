#include "export/format.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace hysparse {
namespace {

struct FormatName {
  ExportFormat format;
  const char* name;
  const char* class_name;
};
constexpr std::array<FormatName, 5> format_names = {{
    {ExportFormat::hysparse, "hysparse", "HySparseForCausalLM"},
    {ExportFormat::qwen3_moe, "qwen3_moe", "Qwen3MoeForCausalLM"},
    {ExportFormat::mixtral, "mixtral", "MixtralForCausalLM"},
    {ExportFormat::glm4_moe, "glm4_moe", "Glm4MoeForCausalLM"},
    {ExportFormat::qwen3, "qwen3", "Qwen3ForCausalLM"},
}};

const FormatName& entry_of(ExportFormat format) {
  return *std::find_if(format_names.begin(), format_names.end(),
                       [&](const FormatName& f) { return f.format == format; });
}

/// Gathers what is in the way.
class Obstacles {
 public:
  explicit Obstacles(ExportFormat format) : class_(export_class_name(format)) {}
  template <class T>
  void check(bool fits, const char* key, const T& value, const char* has) {
    if (!fits) list_.push_back(fmt::format("{}: {}: {} has {}", key, value, class_, has));
  }
  std::vector<std::string> take() { return std::move(list_); }

 private:
  const char* class_;
  std::vector<std::string> list_;
};

void check_attention(const ModelConfig& config, Obstacles& in_the_way) {
  const auto other = std::find_if(config.layer_types.begin(), config.layer_types.end(),
                                  [](LayerType type) { return type != LayerType::full_attention; });
  in_the_way.check(other == config.layer_types.end(), "model.attention",
                   other == config.layer_types.end() ? "" : layer_type_name(*other), "full attention only");
  in_the_way.check(config.full_attention_gate == GateKind::none, "model.full_attention_gate",
                   gate_name(config.full_attention_gate), "no gate");
}

void check_softmax_router(const MoeConfig& moe, Obstacles& in_the_way) {
  in_the_way.check(moe.scoring == RouterScoring::softmax, "model.moe.scoring", "sigmoid", "a softmax router");
  in_the_way.check(!moe.has_correction_bias, "model.moe.bias_update_rate", moe.bias_update_rate,
                   "no correction bias (0 trains without)");
  in_the_way.check(moe.shared_experts == 0, "model.moe.shared_experts", moe.shared_experts, "none");
  in_the_way.check(moe.routed_scaling == 1.0, "model.moe.routed_scaling", moe.routed_scaling, "no such factor");
}

void check_moe(ExportFormat format, const ModelConfig& config, Obstacles& in_the_way) {
  if (format == ExportFormat::qwen3) {
    in_the_way.check(!config.moe, "model.moe",
                     fmt::format("{} experts", config.moe ? config.moe->num_experts : 0), "dense layers only");
    return;
  }
  in_the_way.check(config.moe.has_value(), "model.moe", "null", "a mixture of experts");
  if (!config.moe) return;
  const MoeConfig& moe = *config.moe;
  if (format != ExportFormat::glm4_moe) check_softmax_router(moe, in_the_way);
  if (format == ExportFormat::mixtral) {
    in_the_way.check(moe.normalize_top_k, "model.moe.normalize_top_k", "false",
                     "weights that are renormalised");
    in_the_way.check(moe.first_k_dense == 0, "model.moe.first_k_dense", moe.first_k_dense, "no dense layers");
  }
  if (format == ExportFormat::glm4_moe) {
    in_the_way.check(moe.scoring == RouterScoring::sigmoid, "model.moe.scoring", "softmax", "a sigmoid router");
    in_the_way.check(moe.num_experts >= 2, "model.moe.num_experts", moe.num_experts, "2 at least");
  }
}

void replace(std::string& name, const std::string& from, const std::string& to) {
  const std::size_t at = name.find(from);
  if (at != std::string::npos) name.replace(at, from.size(), to);
}

}  // namespace

const char* export_format_name(ExportFormat format) {
  return entry_of(format).name;
}

const char* export_class_name(ExportFormat format) {
  return entry_of(format).class_name;
}

std::optional<ExportFormat> export_format_from(const std::string& name) {
  for (const FormatName& f : format_names) {
    if (f.name == name) return f.format;
  }
  return std::nullopt;
}

std::vector<std::string> obstacles(ExportFormat format, const ModelConfig& config) {
  Obstacles in_the_way(format);
  if (format == ExportFormat::hysparse) return {};
  check_attention(config, in_the_way);
  const bool wants_norm = format == ExportFormat::qwen3 || format == ExportFormat::qwen3_moe;
  if (wants_norm) in_the_way.check(config.use_qk_norm, "model.use_qk_norm", "false", "q/k norm");
  if (format == ExportFormat::mixtral) {
    in_the_way.check(!config.use_qk_norm, "model.use_qk_norm", "true", "no q/k norm");
  }
  if (format != ExportFormat::glm4_moe) {
    in_the_way.check(config.rope_partial == 1.0, "model.rope.partial", config.rope_partial,
                     "rotation of whole heads");
  }
  check_moe(format, config, in_the_way);
  return in_the_way.take();
}

ExportFormat natural_format(const ModelConfig& config) {
  for (const ExportFormat format :
       {ExportFormat::qwen3, ExportFormat::qwen3_moe, ExportFormat::mixtral, ExportFormat::glm4_moe}) {
    if (obstacles(format, config).empty()) return format;
  }
  return ExportFormat::hysparse;
}

std::string class_tensor_name(ExportFormat format, const std::string& name) {
  if (format != ExportFormat::mixtral) return name;
  std::string own = name;
  replace(own, ".mlp.", ".block_sparse_moe.");
  if (own.find(".experts.") == std::string::npos) return own;
  replace(own, ".gate_proj.", ".w1.");
  replace(own, ".down_proj.", ".w2.");
  replace(own, ".up_proj.", ".w3.");
  return own;
}

std::vector<ExportName> zero_tensors(ExportFormat format, const ModelConfig& config) {
  std::vector<ExportName> zeros;
  if (format != ExportFormat::glm4_moe) return zeros;
  const MoeConfig& moe = *config.moe;
  for (std::int64_t layer = moe.first_k_dense; layer < config.num_layers(); ++layer) {
    const std::string mlp = fmt::format("model.layers.{}.mlp.", layer);
    if (!moe.has_correction_bias)
      zeros.push_back({mlp + "gate.e_score_correction_bias", {moe.num_experts}, "", -1});
    if (moe.shared_experts > 0) continue;
    for (const char* name : {"gate_proj", "up_proj"}) {
      zeros.push_back({fmt::format("{}shared_experts.{}.weight", mlp, name), {0, config.hidden_size}, "", -1});
    }
    zeros.push_back({mlp + "shared_experts.down_proj.weight", {config.hidden_size, 0}, "", -1});
  }
  return zeros;
}

}  // namespace hysparse
