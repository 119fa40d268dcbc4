#include "model/hf_config.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/printable.h"
#include "core/strict_json.h"

namespace hysparse {
namespace {

using Json = nlohmann::json;

/// Sizes stay below 2^31, so that products of two fit 64 bits.
constexpr double max_size = std::numeric_limits<std::int32_t>::max();

/// Typed look-ups that gather problems instead of stopping at the first.
class Reader {
 public:
  Reader(const Json& json, std::string file) : json_(json), file_(std::move(file)) {}

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  std::int64_t integer(const char* key, std::optional<std::int64_t> missing = std::nullopt) {
    if (!has(key)) return missing ? *missing : required<std::int64_t>(key);
    const Json& v = json_[key];
    const double value = v.is_number() ? v.get<double>() : 0.5;
    if (value == std::floor(value) && std::abs(value) <= max_size) return static_cast<std::int64_t>(value);
    wrong(key, std::abs(value) > max_size ? "an integer of at most 2147483647" : "an integer");
    return 1;
  }
  double number(const char* key, double missing) {
    if (!has(key)) return missing;
    if (json_[key].is_number()) return json_[key].get<double>();
    wrong(key, "a number");
    return missing;
  }
  bool boolean(const char* key, bool missing) {
    if (!has(key)) return missing;
    if (json_[key].is_boolean()) return json_[key].get<bool>();
    wrong(key, "true or false");
    return missing;
  }
  std::string text(const char* key, const std::string& missing) {
    if (!has(key)) return missing;
    if (json_[key].is_string()) return json_[key].get<std::string>();
    wrong(key, "a string");
    return missing;
  }
  void problem(const std::string& text) { problems_.push_back(file_ + ": " + text); }
  bool sound() const { return problems_.empty(); }
  void finish() const {
    if (!problems_.empty()) throw Error(problems_);
  }

 private:
  template <class T>
  T required(const char* key) {
    problem(fmt::format("{}: missing", key));
    return T(1);
  }
  void wrong(const char* key, const char* allowed) {
    problem(fmt::format("{}: {}: must be {}", key, json_in_message(json_[key]), allowed));
  }

  const Json& json_;
  std::string file_;
  std::vector<std::string> problems_;
};

void read_layer_types(Reader& reader, const Json& json, ModelConfig& config) {
  const std::int64_t layers = reader.integer("num_hidden_layers");
  if (!json.contains("layer_types") || !json["layer_types"].is_array()) {
    return reader.problem("layer_types: must be a list with the attention of each layer");
  }
  for (const Json& entry : json["layer_types"]) {
    const auto type = entry.is_string() ? layer_type_from(entry.get<std::string>()) : std::nullopt;
    if (!type) {
      return reader.problem(
          fmt::format("layer_types: {}: must be full_attention, sparse_attention or sliding_attention",
                      json_in_message(entry)));
    }
    config.layer_types.push_back(*type);
  }
  if (reader.sound() && config.num_layers() != layers) {
    reader.problem(
        fmt::format("layer_types: {} entries for num_hidden_layers {}", config.num_layers(), layers));
  }
}

/// The kind of a gate: what config.json says, else what the weight's rows say.
GateKind read_gate(Reader& reader, const char* key, const ModelConfig& config, const ExportedWeights& weights,
                   const std::string& weight) {
  if (reader.has(key)) {
    const std::string name = reader.text(key, "none");
    const auto kind = gate_from(name);
    if (!kind)
      reader.problem(fmt::format("{}: {}: must be none, headwise or elementwise", key, printable(name)));
    return kind.value_or(GateKind::none);
  }
  const auto shape = weights.shape(weight);
  if (!shape || shape->empty()) return GateKind::none;
  return shape->front() == config.num_heads ? GateKind::headwise : GateKind::elementwise;
}

void read_gates_and_sinks(Reader& reader, ModelConfig& config, const ExportedWeights& weights) {
  std::string full = "none of this kind", follower = full, sinks = full;
  for (std::int64_t i = config.num_layers() - 1; i >= 0; --i) {
    const std::string prefix = fmt::format("model.layers.{}.self_attn.", i);
    const LayerType type = config.layer_types[static_cast<std::size_t>(i)];
    if (type == LayerType::full_attention) full = prefix + "gate_proj.weight";
    if (type == LayerType::sparse_attention)
      follower = prefix + "sparse_gate_proj.weight", sinks = prefix + "sparse_sinks";
    if (type == LayerType::sliding_attention)
      follower = prefix + "window_gate_proj.weight", sinks = prefix + "window_sinks";
  }
  config.full_attention_gate = read_gate(reader, "full_attention_gate", config, weights, full);
  config.attention_gate = read_gate(reader, "attention_gate", config, weights, follower);
  config.attention_sinks = reader.boolean("attention_sinks", weights.shape(sinks).has_value());
}

/// Rows of the first layer's parameter of that name, 1 when no layer has it.
std::int64_t rows_of_first(const ModelConfig& config, const ExportedWeights& weights, const std::string& name) {
  for (std::int64_t i = 0; i < config.num_layers(); ++i) {
    const auto shape = weights.shape(fmt::format("model.layers.{}.{}", i, name));
    if (shape && !shape->empty()) return shape->front();
  }
  return 1;
}

std::int64_t first_moe_layer(const ModelConfig& config, const ExportedWeights& weights) {
  std::int64_t layer = 0;
  while (layer < config.num_layers() && !weights.shape(fmt::format("model.layers.{}.mlp.gate.weight", layer)))
    ++layer;
  return layer;
}

void read_moe(Reader& reader, ModelConfig& config, const ExportedWeights& weights) {
  MoeConfig moe;
  moe.num_experts = reader.integer("num_experts", 0);
  if (moe.num_experts == 0) return;
  moe.top_k = reader.integer("num_experts_per_tok");
  moe.intermediate_size =
      reader.integer("moe_intermediate_size", rows_of_first(config, weights, "mlp.experts.0.gate_proj.weight"));
  moe.first_k_dense = reader.integer("first_k_dense_replace", first_moe_layer(config, weights));
  const std::string mlp = fmt::format("model.layers.{}.mlp.", moe.first_k_dense);
  const auto shared = weights.shape(mlp + "shared_experts.gate_proj.weight");
  const bool sized = shared && !shared->empty() && moe.intermediate_size > 0;
  moe.shared_experts = reader.integer("n_shared_experts", sized ? shared->front() / moe.intermediate_size : 0);
  const std::string scoring = reader.text("scoring_func", "softmax");
  if (scoring != "softmax" && scoring != "sigmoid") {
    reader.problem(fmt::format("scoring_func: {}: must be softmax or sigmoid", printable(scoring)));
  }
  moe.scoring = scoring == "sigmoid" ? RouterScoring::sigmoid : RouterScoring::softmax;
  moe.normalize_top_k = reader.boolean("norm_topk_prob", true);
  moe.routed_scaling = reader.number("routed_scaling_factor", 1.0);
  moe.has_correction_bias = weights.shape(mlp + "gate.e_score_correction_bias").has_value();
  config.moe = moe;
}

}  // namespace

ModelConfig model_config_from_json(const std::string& text, const std::string& file,
                                   const ExportedWeights& weights) {
  const Json json = parse_json(text, file);
  if (!json.is_object()) throw_error("{}: not a JSON object", file);
  Reader reader(json, file);
  ModelConfig config;
  read_layer_types(reader, json, config);
  config.vocab_size = reader.integer("vocab_size");
  config.hidden_size = reader.integer("hidden_size");
  config.num_heads = reader.integer("num_attention_heads");
  config.num_kv_heads = reader.integer("num_key_value_heads");
  config.head_dim = reader.integer("head_dim");
  config.intermediate_size =
      reader.integer("intermediate_size", rows_of_first(config, weights, "mlp.gate_proj.weight"));
  config.sliding_window = reader.integer("sliding_window");
  config.sparse_block_size = reader.integer("sparse_block_size");
  config.sparse_topk_tokens = reader.integer("sparse_topk_tokens");
  config.use_qk_norm = reader.boolean("use_qk_norm", false);
  config.share_kv = reader.boolean("share_kv", true);
  config.share_kv_window = reader.boolean("share_kv_window", false);
  config.sparse_window_branch = reader.boolean("sparse_window_branch", true);
  config.rope_theta = reader.number("rope_theta", 10000.0);
  config.rope_partial = reader.number("partial_rotary_factor", 1.0);
  config.rms_norm_eps = reader.number("rms_norm_eps", 1e-6);
  config.tie_embeddings = reader.boolean("tie_word_embeddings", false);
  if (reader.has("v_head_dim") && reader.integer("v_head_dim") != config.head_dim) {
    reader.problem(
        fmt::format("v_head_dim: {}: must equal head_dim ({})", reader.integer("v_head_dim"), config.head_dim));
  }
  read_gates_and_sinks(reader, config, weights);
  read_moe(reader, config, weights);
  reader.finish();
  if (auto problems = model_problems(config); !problems.empty()) {
    for (std::string& p : problems) p = file + ": " + p;
    throw Error(problems);
  }
  return config;
}

std::int64_t max_positions_from_json(const std::string& text) {
  const Json json = parse_json(text, "config.json");
  if (!json.is_object() || !json.contains("max_position_embeddings")) return 0;
  const Json& v = json["max_position_embeddings"];
  return v.is_number_integer() ? v.get<std::int64_t>() : 0;
}

std::string model_config_to_json(const ModelConfig& config, std::int64_t max_position_embeddings,
                                 const std::string& torch_dtype) {
  using Ordered = nlohmann::ordered_json;
  Ordered j;
  j["model_type"] = "hysparse";
  j["architectures"] = {"HySparseForCausalLM"};
  j["vocab_size"] = config.vocab_size;
  j["hidden_size"] = config.hidden_size;
  j["num_hidden_layers"] = config.num_layers();
  j["num_attention_heads"] = config.num_heads;
  j["num_key_value_heads"] = config.num_kv_heads;
  j["head_dim"] = config.head_dim;
  j["intermediate_size"] = config.intermediate_size;
  const MoeConfig moe = config.moe.value_or(MoeConfig{});
  j["num_experts"] = config.moe ? moe.num_experts : 0;
  j["num_experts_per_tok"] = config.moe ? moe.top_k : 0;
  j["moe_intermediate_size"] = config.moe ? moe.intermediate_size : 0;
  j["n_shared_experts"] = config.moe ? moe.shared_experts : 0;
  j["first_k_dense_replace"] = config.moe ? moe.first_k_dense : 0;
  j["norm_topk_prob"] = moe.normalize_top_k;
  j["scoring_func"] = moe.scoring == RouterScoring::sigmoid ? "sigmoid" : "softmax";
  j["routed_scaling_factor"] = moe.routed_scaling;
  j["rope_theta"] = config.rope_theta;
  j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", config.rope_theta}};
  j["partial_rotary_factor"] = config.rope_partial;
  j["rms_norm_eps"] = config.rms_norm_eps;
  j["tie_word_embeddings"] = config.tie_embeddings;
  j["layer_types"] = Ordered::array();
  for (const LayerType type : config.layer_types) j["layer_types"].push_back(layer_type_name(type));
  j["sliding_window"] = config.sliding_window;
  j["sparse_block_size"] = config.sparse_block_size;
  j["sparse_topk_tokens"] = config.sparse_topk_tokens;
  j["attention_gate"] = gate_name(config.attention_gate);
  j["full_attention_gate"] = gate_name(config.full_attention_gate);
  j["attention_sinks"] = config.attention_sinks;
  j["use_qk_norm"] = config.use_qk_norm;
  j["share_kv"] = config.share_kv;
  j["share_kv_window"] = config.share_kv_window;
  j["sparse_window_branch"] = config.sparse_window_branch;
  j["max_position_embeddings"] = max_position_embeddings;
  j["torch_dtype"] = torch_dtype;
  return j.dump(2) + "\n";
}

}  // namespace hysparse
