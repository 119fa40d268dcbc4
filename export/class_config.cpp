// config.json of each class.
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "export/format.h"

namespace hysparse {
namespace {

using Ordered = nlohmann::ordered_json;

Ordered optional_id(const std::optional<std::int32_t>& id) {
  return id ? Ordered(*id) : Ordered(nullptr);
}

void add_moe(ExportFormat format, const MoeConfig& moe, Ordered& j) {
  j["num_experts_per_tok"] = moe.top_k;
  j["norm_topk_prob"] = moe.normalize_top_k;
  j["output_router_logits"] = false;
  if (format == ExportFormat::mixtral) {
    j["num_local_experts"] = moe.num_experts;
    j["intermediate_size"] = moe.intermediate_size;
    return;
  }
  j["moe_intermediate_size"] = moe.intermediate_size;
  if (format == ExportFormat::qwen3_moe) {
    j["num_experts"] = moe.num_experts;
    j["num_local_experts"] = moe.num_experts;  // its name in transformers 5
    j["decoder_sparse_step"] = 1;
    j["mlp_only_layers"] = Ordered::array();
    for (std::int64_t layer = 0; layer < moe.first_k_dense; ++layer) j["mlp_only_layers"].push_back(layer);
    return;
  }
  j["n_routed_experts"] = moe.num_experts;
  j["n_shared_experts"] = moe.shared_experts;
  j["first_k_dense_replace"] = moe.first_k_dense;
  j["routed_scaling_factor"] = moe.routed_scaling;
  j["n_group"] = 1;
  j["topk_group"] = 1;
  j["num_nextn_predict_layers"] = 0;
}

}  // namespace

std::string class_config_json(ExportFormat format, const ModelConfig& config, const ExportConfig& more) {
  Ordered j;
  if (format == ExportFormat::hysparse) {
    j = Ordered::parse(model_config_to_json(config, more.max_position_embeddings, more.dtype));
    j["auto_map"] = {{"AutoConfig", "configuration_hysparse.HySparseConfig"},
                     {"AutoModel", "modeling_hysparse.HySparseModel"},
                     {"AutoModelForCausalLM", "modeling_hysparse.HySparseForCausalLM"}};
  } else {
    j["model_type"] = export_format_name(format);
    j["architectures"] = {export_class_name(format)};
    j["vocab_size"] = config.vocab_size;
    j["hidden_size"] = config.hidden_size;
    j["num_hidden_layers"] = config.num_layers();
    j["num_attention_heads"] = config.num_heads;
    j["num_key_value_heads"] = config.num_kv_heads;
    j["head_dim"] = config.head_dim;
    j["intermediate_size"] = config.intermediate_size;
    if (config.moe) add_moe(format, *config.moe, j);
    if (format == ExportFormat::glm4_moe) j["use_qk_norm"] = config.use_qk_norm;
    j["hidden_act"] = "silu";
    j["attention_bias"] = false;
    j["attention_dropout"] = 0.0;
    j["rope_theta"] = config.rope_theta;
    j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", config.rope_theta}};
    if (format == ExportFormat::glm4_moe) {
      j["partial_rotary_factor"] = config.rope_partial;
      j["rope_parameters"]["partial_rotary_factor"] = config.rope_partial;
    }
    j["rms_norm_eps"] = config.rms_norm_eps;
    j["tie_word_embeddings"] = config.tie_embeddings;
    if (format == ExportFormat::mixtral) j["sliding_window"] = nullptr;
    if (format == ExportFormat::qwen3 || format == ExportFormat::qwen3_moe) j["use_sliding_window"] = false;
    j["max_position_embeddings"] = more.max_position_embeddings;
    j["torch_dtype"] = more.dtype;
  }
  j["dtype"] = more.dtype;
  j["initializer_range"] = config.init_std;
  j["bos_token_id"] = nullptr;
  j["eos_token_id"] = optional_id(more.eos_token_id);
  j["pad_token_id"] = nullptr;  // an embedding of its own would be zeroed by some classes
  return j.dump(2) + "\n";
}

std::string generation_config_json(const ExportConfig& more) {
  Ordered j;
  j["do_sample"] = false;
  j["eos_token_id"] = optional_id(more.eos_token_id);
  j["pad_token_id"] = optional_id(more.eos_token_id);
  return j.dump(2) + "\n";
}

}  // namespace hysparse
