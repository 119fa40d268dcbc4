// config.json of the stock classes, as transformers and this program write them.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/strict_json.h"
#include "export/format.h"

namespace hysparse {
namespace {

using Json = nlohmann::json;

constexpr double max_size = std::numeric_limits<std::int32_t>::max();

/// Look-ups that gather problems instead of stopping at the first.
class ClassReader {
 public:
  ClassReader(const Json& json, std::string file, ExportFormat format)
      : json_(json), file_(std::move(file)), format_(format) {}

  ModelConfig read() {
    ModelConfig config;
    const std::int64_t layers = integer("num_hidden_layers");
    constexpr std::int64_t most_layers = 1 << 20;
    if (layers < 1 || layers > most_layers) {
      problem(fmt::format("num_hidden_layers: {}: must be 1 to {}", layers, most_layers));
    } else {
      config.layer_types.assign(static_cast<std::size_t>(layers), LayerType::full_attention);
    }
    config.vocab_size = integer("vocab_size");
    config.hidden_size = integer("hidden_size");
    config.num_heads = integer("num_attention_heads");
    config.num_kv_heads = integer("num_key_value_heads");
    config.head_dim = has("head_dim") ? integer("head_dim")
                                      : config.hidden_size / std::max<std::int64_t>(1, config.num_heads);
    config.intermediate_size = integer("intermediate_size");
    config.rms_norm_eps = number(json_, "rms_norm_eps", std::nullopt);
    config.tie_embeddings = boolean("tie_word_embeddings", false);
    config.use_qk_norm =
        format_ == ExportFormat::glm4_moe ? boolean("use_qk_norm", false) : format_ != ExportFormat::mixtral;
    config.attention_gate = config.full_attention_gate = GateKind::none;
    config.attention_sinks = false;
    read_rope(config);
    refuse_options();
    if (format_ != ExportFormat::qwen3) read_moe(config);
    if (problems_.empty()) {
      for (const std::string& p : model_problems(config)) problem(p);
    }
    if (!problems_.empty()) throw Error(problems_);
    return config;
  }

 private:
  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  void problem(const std::string& text) { problems_.push_back(file_ + ": " + text); }
  void wrong(const char* key, const Json& value, const char* allowed) {
    problem(fmt::format("{}: {}: must be {}", key, json_in_message(value), allowed));
  }
  std::int64_t integer(const char* key, std::optional<std::int64_t> missing = std::nullopt) {
    if (!has(key)) {
      if (!missing) problem(fmt::format("{}: missing", key));
      return missing.value_or(1);
    }
    const Json& v = json_[key];
    const double value = v.is_number() ? v.get<double>() : 0.5;
    if (value == std::floor(value) && std::abs(value) <= max_size) return static_cast<std::int64_t>(value);
    wrong(key, v, "an integer of at most 2147483647");
    return 1;
  }
  double number(const Json& in, const char* key, std::optional<double> missing) {
    if (!in.contains(key) || in[key].is_null()) {
      if (!missing) problem(fmt::format("{}: missing", key));
      return missing.value_or(1);
    }
    if (in[key].is_number()) return in[key].get<double>();
    wrong(key, in[key], "a number");
    return 1;
  }
  bool boolean(const char* key, bool missing) {
    if (!has(key)) return missing;
    if (json_[key].is_boolean()) return json_[key].get<bool>();
    wrong(key, json_[key], "true or false");
    return missing;
  }

  /// transformers 5 has rope_parameters, 4 rope_theta and rope_scaling.
  void read_rope(ModelConfig& config) {
    const Json none = Json::object();
    const Json& rope = has("rope_parameters") ? json_["rope_parameters"]
                       : has("rope_scaling")  ? json_["rope_scaling"]
                                              : none;
    if (!rope.is_object()) return wrong("rope_parameters", rope, "an object");
    const char* type_key = rope.contains("rope_type") ? "rope_type" : "type";
    if (rope.contains(type_key) && rope[type_key] != "default") wrong(type_key, rope[type_key], "default");
    const Json& theta = rope.contains("rope_theta") ? rope : json_;
    config.rope_theta = number(theta, "rope_theta", std::nullopt);
    const double partial = format_ == ExportFormat::glm4_moe ? 0.5 : 1.0;  // the class's own default
    config.rope_partial =
        number(rope.contains("partial_rotary_factor") ? rope : json_, "partial_rotary_factor", partial);
    if (format_ != ExportFormat::glm4_moe) config.rope_partial = 1.0;  // these classes do not read it
  }

  /// What changes the computation in a way that the model has no option for.
  void refuse_options() {
    if (has("hidden_act") && json_["hidden_act"] != "silu") wrong("hidden_act", json_["hidden_act"], "silu");
    if (boolean("attention_bias", false)) wrong("attention_bias", json_["attention_bias"], "false");
    if (boolean("use_sliding_window", false)) wrong("use_sliding_window", json_["use_sliding_window"], "false");
    if (format_ == ExportFormat::mixtral && has("sliding_window"))
      wrong("sliding_window", json_["sliding_window"], "null");
    if (!has("layer_types")) return;
    const Json& types = json_["layer_types"];
    const bool full = types.is_array() && std::all_of(types.begin(), types.end(),
                                                      [](const Json& t) { return t == "full_attention"; });
    if (!full) problem("layer_types: must be full_attention in every layer");
  }

  std::int64_t num_experts() {
    for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
      if (has(key)) return integer(key);
    }
    problem("num_experts: missing");
    return 1;
  }

  /// Qwen3-MoE: the layers without experts, which must be the first ones.
  std::int64_t dense_layers() {
    if (integer("decoder_sparse_step", 1) != 1) wrong("decoder_sparse_step", json_["decoder_sparse_step"], "1");
    if (!has("mlp_only_layers")) return 0;
    const Json& layers = json_["mlp_only_layers"];
    for (std::size_t i = 0; layers.is_array() && i < layers.size(); ++i) {
      if (layers[i] == i) continue;
      wrong("mlp_only_layers", layers, "the first layers, in order");
      return 0;
    }
    return static_cast<std::int64_t>(layers.is_array() ? layers.size() : 0);
  }

  void read_moe(ModelConfig& config) {
    MoeConfig moe;
    moe.num_experts = num_experts();
    moe.top_k = integer("num_experts_per_tok");
    moe.scoring = RouterScoring::softmax;
    moe.has_correction_bias = false;
    if (format_ == ExportFormat::mixtral) {
      moe.intermediate_size = config.intermediate_size;
      moe.normalize_top_k = true;
    } else {
      moe.intermediate_size = integer("moe_intermediate_size");
    }
    if (format_ == ExportFormat::qwen3_moe) {
      moe.normalize_top_k = boolean("norm_topk_prob", false);
      moe.first_k_dense = dense_layers();
    }
    if (format_ == ExportFormat::glm4_moe) {
      moe.scoring = RouterScoring::sigmoid;
      moe.has_correction_bias = true;
      moe.normalize_top_k = boolean("norm_topk_prob", true);
      moe.shared_experts = integer("n_shared_experts", 1);
      moe.first_k_dense = integer("first_k_dense_replace", 1);
      moe.routed_scaling = number(json_, "routed_scaling_factor", 1.0);
      for (const char* key : {"n_group", "topk_group"}) {
        if (integer(key, 1) != 1) wrong(key, json_[key], "1");
      }
    }
    config.moe = moe;
  }

  const Json& json_;
  std::string file_;
  ExportFormat format_;
  std::vector<std::string> problems_;
};

}  // namespace

ExportFormat format_of_config(const std::string& text, const std::string& file) {
  const Json json = parse_json(text, file);
  if (!json.is_object() || !json.contains("model_type")) return ExportFormat::hysparse;  // its reader judges
  const Json& type = json["model_type"];
  const auto format = type.is_string() ? export_format_from(type.get<std::string>()) : std::nullopt;
  if (!format) {
    throw_error("{}: model_type: {}: must be hysparse, qwen3_moe, mixtral, glm4_moe or qwen3", file,
                json_in_message(type));
  }
  return *format;
}

ModelConfig config_from_class_json(ExportFormat format, const std::string& text, const std::string& file,
                                   const ExportedWeights& weights) {
  if (format == ExportFormat::hysparse) return model_config_from_json(text, file, weights);
  const Json json = parse_json(text, file);
  if (!json.is_object()) throw_error("{}: not a JSON object", file);
  return ClassReader(json, file, format).read();
}

}  // namespace hysparse
