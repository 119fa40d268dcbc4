#include "model/config.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"

namespace hysparse {
namespace {

constexpr std::array<std::pair<LayerType, const char*>, 3> layer_type_names{{
    {LayerType::full_attention, "full_attention"},
    {LayerType::sparse_attention, "sparse_attention"},
    {LayerType::sliding_attention, "sliding_attention"},
}};
constexpr std::array<std::pair<GateKind, const char*>, 3> gate_names{{
    {GateKind::none, "none"},
    {GateKind::headwise, "headwise"},
    {GateKind::elementwise, "elementwise"},
}};

template <class Table, class Value>
std::string name_of(const Table& table, Value value) {
  for (const auto& [v, name] : table) {
    if (v == value) return name;
  }
  HYSPARSE_CHECK(false, "value {}", static_cast<int>(value));
  return {};
}

template <class Value, std::size_t n>
std::optional<Value> value_of(const std::array<std::pair<Value, const char*>, n>& table,
                              const std::string& name) {
  for (const auto& [v, text] : table) {
    if (name == text) return v;
  }
  return std::nullopt;
}

void moe_problems(const ModelConfig& config, std::vector<std::string>& problems) {
  const MoeConfig& moe = *config.moe;
  const auto positive = [&](std::int64_t value, const char* key) {
    if (value < 1) problems.push_back(fmt::format("{}: {}: must be at least 1", key, value));
  };
  positive(moe.num_experts, "num_experts");
  positive(moe.intermediate_size, "moe_intermediate_size");
  if (moe.num_experts >= 1 && (moe.top_k < 1 || moe.top_k > moe.num_experts)) {
    problems.push_back(
        fmt::format("num_experts_per_tok: {}: must be from 1 to num_experts ({})", moe.top_k, moe.num_experts));
  }
  if (moe.shared_experts < 0)
    problems.push_back(fmt::format("n_shared_experts: {}: must not be negative", moe.shared_experts));
  if (moe.first_k_dense < 0 || moe.first_k_dense > config.num_layers()) {
    problems.push_back(fmt::format("first_k_dense_replace: {}: must be from 0 to num_hidden_layers ({})",
                                   moe.first_k_dense, config.num_layers()));
  }
  if (moe.capacity_factor < 0)
    problems.push_back(fmt::format("capacity_factor: {}: must not be negative", moe.capacity_factor));
}

}  // namespace

std::int64_t ModelConfig::rotary_dim() const {
  return static_cast<std::int64_t>(static_cast<double>(head_dim) * rope_partial);
}

bool ModelConfig::has_window_branch(std::int64_t layer) const {
  switch (layer_types[static_cast<std::size_t>(layer)]) {
    case LayerType::full_attention:
      return false;
    case LayerType::sliding_attention:
      return true;
    case LayerType::sparse_attention:
      return sparse_window_branch;
  }
  return false;
}

bool ModelConfig::has_own_kv(std::int64_t layer) const {
  if (layer_types[static_cast<std::size_t>(layer)] != LayerType::sparse_attention) return true;
  return !share_kv || (sparse_window_branch && !share_kv_window);
}

bool ModelConfig::feeds_followers(std::int64_t layer) const {
  const auto first = layer_types.begin() + layer;
  if (*first != LayerType::full_attention) return false;
  const auto next_full = std::find(first + 1, layer_types.end(), LayerType::full_attention);
  return std::find(first + 1, next_full, LayerType::sparse_attention) != next_full;
}

std::string layer_type_name(LayerType type) {
  return name_of(layer_type_names, type);
}
std::optional<LayerType> layer_type_from(const std::string& name) {
  return value_of(layer_type_names, name);
}
std::string gate_name(GateKind gate) {
  return name_of(gate_names, gate);
}
std::optional<GateKind> gate_from(const std::string& name) {
  return value_of(gate_names, name);
}

std::vector<LayerType> layer_types_from_ratio(std::int64_t num_layers, std::int64_t followers,
                                              LayerType follower) {
  if (followers < 0 || num_layers < followers + 2) {
    throw_error(
        "hybrid_ratio: 1:{} over {} layers: needs at least {} layers (a full layer, {} followers, a closing "
        "full layer)",
        followers, num_layers, followers + 2, followers);
  }
  std::vector<LayerType> types;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    types.push_back(i % (followers + 1) == 0 || i == num_layers - 1 ? LayerType::full_attention : follower);
  }
  return types;
}

std::vector<std::string> model_problems(const ModelConfig& config) {
  std::vector<std::string> problems;
  const std::pair<const char*, std::int64_t> sizes[] = {
      {"num_hidden_layers", config.num_layers()},   {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},          {"num_attention_heads", config.num_heads},
      {"num_key_value_heads", config.num_kv_heads}, {"head_dim", config.head_dim},
      {"sliding_window", config.sliding_window},    {"sparse_block_size", config.sparse_block_size},
  };
  for (const auto& [key, value] : sizes) {
    if (value < 1) problems.push_back(fmt::format("{}: {}: must be at least 1", key, value));
  }
  const bool has_dense = !config.moe || config.moe->first_k_dense > 0;
  if (has_dense && config.intermediate_size < 1) {
    problems.push_back(fmt::format("intermediate_size: {}: must be at least 1", config.intermediate_size));
  }
  if (config.sparse_topk_tokens < 0) {
    problems.push_back(fmt::format("sparse_topk_tokens: {}: must not be negative", config.sparse_topk_tokens));
  }
  if (config.num_kv_heads > 0 && config.num_heads % config.num_kv_heads != 0) {
    problems.push_back(fmt::format("num_attention_heads: {}: must be a multiple of num_key_value_heads ({})",
                                   config.num_heads, config.num_kv_heads));
  }
  if (config.rope_partial < 0 || config.rope_partial > 1) {
    problems.push_back(fmt::format("partial_rotary_factor: {}: must be from 0 to 1", config.rope_partial));
  } else if (config.rotary_dim() % 2 != 0) {
    problems.push_back(fmt::format("partial_rotary_factor: {}: head_dim {} times it must be even, it is {}",
                                   config.rope_partial, config.head_dim, config.rotary_dim()));
  }
  if (!(config.rope_theta > 0))
    problems.push_back(fmt::format("rope_theta: {}: must be positive", config.rope_theta));
  if (!(config.rms_norm_eps >= 0))
    problems.push_back(fmt::format("rms_norm_eps: {}: must not be negative", config.rms_norm_eps));
  bool full_seen = false;
  for (std::size_t i = 0; i < config.layer_types.size(); ++i) {
    full_seen = full_seen || config.layer_types[i] == LayerType::full_attention;
    if (config.layer_types[i] == LayerType::sparse_attention && !full_seen) {
      problems.push_back(
          fmt::format("layer_types: layer {} is sparse_attention with no full_attention layer before it", i));
      break;
    }
  }
  if (config.moe) moe_problems(config, problems);
  return problems;
}

}  // namespace hysparse
