/// The model's configuration: plain values, filled from YAML (launch/) or from an export's config.json
/// (hf_config.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moe/config.h"

namespace hysparse {

enum class LayerType { full_attention, sparse_attention, sliding_attention };
enum class GateKind { none, headwise, elementwise };

struct ModelConfig {
  std::vector<LayerType> layer_types;  ///< one per layer
  std::int64_t vocab_size = 320;
  std::int64_t hidden_size = 256;
  std::int64_t num_heads = 8;
  std::int64_t num_kv_heads = 2;
  std::int64_t head_dim = 32;
  std::int64_t intermediate_size = 704;           ///< of dense feed-forward layers
  std::int64_t sliding_window = 32;               ///< W, tokens; the last W include the query's own
  std::int64_t sparse_block_size = 16;            ///< B, tokens
  std::int64_t sparse_topk_tokens = 64;           ///< K * B, tokens
  GateKind attention_gate = GateKind::headwise;   ///< on sparse and sliding layers
  GateKind full_attention_gate = GateKind::none;  ///< on full layers
  bool attention_sinks = true;
  bool use_qk_norm = true;
  bool share_kv = true;              ///< branch 1 reads the oracle's K, V (false: the layer's own)
  bool share_kv_window = false;      ///< branch 2 reads the oracle's K, V
  bool sparse_window_branch = true;  ///< branch 2 exists
  double rope_theta = 10000.0;
  double rope_partial = 1.0;  ///< share of head_dim that is rotated; head_dim * partial must be even
  double rms_norm_eps = 1e-6;
  bool tie_embeddings = false;
  double init_std = 0.02;
  std::optional<MoeConfig> moe;  ///< absent: every layer dense

  std::int64_t num_layers() const { return static_cast<std::int64_t>(layer_types.size()); }
  std::int64_t rotary_dim() const;
  std::int64_t top_blocks() const { return sparse_topk_tokens / sparse_block_size; }
  bool is_moe(std::int64_t layer) const { return moe && layer >= moe->first_k_dense; }
  /// Does a layer project keys and values of its own? (Sparse layers that read only shared ones do not.)
  bool has_own_kv(std::int64_t layer) const;
  /// Does a layer have the window branch (sliding layers always, sparse ones with sparse_window_branch)?
  bool has_window_branch(std::int64_t layer) const;
  /// Is a full layer followed by a sparse layer before the next full one (then it must emit its oracle)?
  bool feeds_followers(std::int64_t layer) const;
};

/// "full_attention", ...; and back, nullopt when the name is none of them.
std::string layer_type_name(LayerType type);
std::optional<LayerType> layer_type_from(const std::string& name);
std::string gate_name(GateKind gate);
std::optional<GateKind> gate_from(const std::string& name);

/// layer_types of hybrid_ratio "1:followers": layer i is full when i % (followers + 1) == 0 or i is the last;
/// the others are `follower`. Throws Error when num_layers < followers + 2.
std::vector<LayerType> layer_types_from_ratio(std::int64_t num_layers, std::int64_t followers,
                                              LayerType follower);

/// Problems of the semantics alone, which exports must also meet (heads divide, sizes positive, a full layer
/// before any sparse one, top-k of experts within their number, ...); empty when there are none. Each names its
/// config.json key.
std::vector<std::string> model_problems(const ModelConfig& config);

}  // namespace hysparse
