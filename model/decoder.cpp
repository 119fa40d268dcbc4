#include "model/decoder.h"

#include <algorithm>
#include <cstring>

#include "attention/decode.h"
#include "core/ops/add.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"

namespace hysparse {
namespace {

/// Tokens whose keys and values a layer keeps when `tokens` are cached by a full layer.
std::int64_t kept_tokens(const ModelConfig& config, std::int64_t layer, std::int64_t tokens) {
  if (config.layer_types[static_cast<std::size_t>(layer)] == LayerType::full_attention) return tokens;
  if (!config.has_own_kv(layer)) return 0;
  const bool sparse = config.layer_types[static_cast<std::size_t>(layer)] == LayerType::sparse_attention;
  // Without sharing, the sparse branch may choose any block of the layer's own keys.
  return sparse && !config.share_kv ? tokens : std::min(config.sliding_window, tokens);
}

}  // namespace

KvReport kv_report(const ModelConfig& config, std::int64_t tokens, DType dtype) {
  const std::int64_t token_bytes = 2 * config.num_kv_heads * config.head_dim * dtype_size(dtype);
  KvReport report;
  for (std::int64_t i = 0; i < config.num_layers(); ++i) {
    KvReport::Kind& kind = report.kinds[config.layer_types[static_cast<std::size_t>(i)]];
    ++kind.layers;
    kind.bytes += kept_tokens(config, i, tokens) * token_bytes;
  }
  for (const auto& [type, kind] : report.kinds) report.total_bytes += kind.bytes;
  report.full_attention_bytes = config.num_layers() * tokens * token_bytes;
  return report;
}

Decoder::Decoder(const Model& model, const Stream& stream, DType dtype, std::int64_t max_tokens)
    : model_(model), stream_(stream), max_tokens_(max_tokens) {
  const ModelConfig& c = model.config();
  for (std::int64_t i = 0; i < c.num_layers(); ++i) {
    KvCache& cache = caches_.emplace_back();
    cache.capacity = kept_tokens(c, i, max_tokens);
    if (cache.capacity == 0) continue;
    cache.k = Tensor::zeros({cache.capacity, c.num_kv_heads * c.head_dim}, dtype);
    cache.v = Tensor::zeros({cache.capacity, c.num_kv_heads * c.head_dim}, dtype);
  }
}

std::int64_t Decoder::cache_bytes() const {
  std::int64_t bytes = 0;
  for (const KvCache& cache : caches_) bytes += cache.bytes();
  return bytes;
}

void Decoder::append(std::size_t index, const AttentionLayer::Projections& own) {
  KvCache& cache = caches_[index];
  if (cache.capacity == 0) return;
  const std::int64_t row = position_ % cache.capacity;
  cache.k.slice(row, row + 1).copy_from(own.k.value);
  cache.v.slice(row, row + 1).copy_from(own.v.value);
}

Var Decoder::attention(Tape& tape, std::size_t index, const Var& x) {
  const ModelConfig& c = model_.config();
  const Layer& layer = model_.layers()[index];
  const AttentionLayer::Projections own = layer.attention.project(tape, x, 1, position_);
  append(index, own);
  const DecodeShape shape{c.num_heads, c.num_kv_heads, c.head_dim, position_};
  const auto value = [](const Parameter* p) { return p != nullptr ? p->value : Tensor(); };
  Var first, window;
  if (layer.attention.type() == LayerType::full_attention) {
    std::optional<SelectionConfig> selection;
    if (layer.feeds_followers) selection = SelectionConfig{c.sparse_block_size, c.top_blocks()};
    DecodeFullResult result =
        decode_full(stream_, own.q.value, caches_[index].k, caches_[index].v, shape, selection);
    first = tape.constant(result.out);
    oracle_layer_ = index;
    blocks_ = std::move(result.blocks);
  }
  if (layer.attention.type() == LayerType::sparse_attention) {
    const KvCache& source = caches_[c.share_kv ? oracle_layer_ : index];
    first = tape.constant(decode_sparse(stream_, own.q.value, source.k, source.v, *blocks_,
                                        value(layer.attention.sparse_sinks()), shape));
  }
  if (layer.attention.has_window_branch()) {
    const bool shared = layer.attention.type() == LayerType::sparse_attention && c.share_kv_window;
    const KvCache& source = caches_[shared ? oracle_layer_ : index];
    window = tape.constant(decode_window(stream_, own.q.value, source.k, source.v, c.sliding_window,
                                         value(layer.attention.window_sinks()), shape));
  }
  return layer.attention.finish(tape, x, first, window);
}

Tensor Decoder::step(std::int32_t token) {
  HYSPARSE_CHECK(position_ < max_tokens_, "{} of {} tokens", position_, max_tokens_);
  const ModelConfig& c = model_.config();
  Tape tape(stream_, {.recording = false});
  Var x = embedding(tape, Tensor::from<std::int32_t>({token}, {1}), model_.embedding());
  for (std::size_t i = 0; i < model_.layers().size(); ++i) {
    const Layer& layer = model_.layers()[i];
    x = add(tape, x, attention(tape, i, rms_norm(tape, x, *layer.input_norm, c.rms_norm_eps)));
    const Var normed = rms_norm(tape, x, *layer.post_attention_norm, c.rms_norm_eps);
    x = add(tape, x, layer.feed_forward.forward(tape, normed, {}, {}, {}).out);
  }
  const Var logits = linear(tape, rms_norm(tape, x, model_.final_norm(), c.rms_norm_eps), model_.head());
  ++position_;
  return logits.value.view({c.vocab_size});
}

}  // namespace hysparse
