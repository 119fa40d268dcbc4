#include "model/kv_cache.h"

#include <algorithm>

namespace hysparse {
namespace {

/// Tokens whose keys and values a layer keeps when `tokens` are cached by a full layer.
std::int64_t kept_tokens(const ModelConfig& config, std::int64_t layer, std::int64_t tokens) {
  const LayerType type = config.layer_types[static_cast<std::size_t>(layer)];
  if (type == LayerType::full_attention) return tokens;
  if (!config.has_own_kv(layer)) return 0;
  // Without sharing, the sparse branch may choose any block of the layer's own keys.
  const bool any = type == LayerType::sparse_attention && !config.share_kv;
  return any ? tokens : std::min(config.sliding_window, tokens);
}

void add(KvReport& report, LayerType type, std::int64_t bytes) {
  KvReport::Kind& kind = report.kinds[type];
  ++kind.layers;
  kind.bytes += bytes;
  report.total_bytes += bytes;
}

}  // namespace

KvReport kv_report(const ModelConfig& config, std::int64_t tokens, DType dtype) {
  const std::int64_t token_bytes = 2 * config.num_kv_heads * config.head_dim * dtype_size(dtype);
  KvReport report;
  for (std::int64_t i = 0; i < config.num_layers(); ++i) {
    add(report, config.layer_types[static_cast<std::size_t>(i)], kept_tokens(config, i, tokens) * token_bytes);
  }
  report.full_attention_bytes = config.num_layers() * tokens * token_bytes;
  return report;
}

KvCache::KvCache(const ModelConfig& config, std::int64_t capacity, DType dtype, Device device)
    : types_(config.layer_types),
      capacity_(capacity),
      full_attention_bytes_(kv_report(config, capacity, dtype).full_attention_bytes) {
  HYSPARSE_CHECK(capacity >= 1, "a cache of {} tokens", capacity);
  const std::int64_t columns = config.num_kv_heads * config.head_dim;
  for (std::int64_t i = 0; i < config.num_layers(); ++i) {
    LayerCache& layer = layers_.emplace_back();
    layer.capacity = kept_tokens(config, i, capacity);
    if (layer.capacity == 0) continue;
    layer.k = Tensor::zeros({layer.capacity, columns}, dtype, device);
    layer.v = Tensor::zeros({layer.capacity, columns}, dtype, device);
  }
}

KvReport KvCache::measure() const {
  KvReport report;
  for (std::size_t i = 0; i < layers_.size(); ++i) add(report, types_[i], layers_[i].bytes());
  report.full_attention_bytes = full_attention_bytes_;
  return report;
}

}  // namespace hysparse
