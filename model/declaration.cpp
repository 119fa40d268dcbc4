#include "model/declaration.h"

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "parallel/box.h"

namespace hysparse {
namespace {

using Axes = AxisPlacement;

/// Builds the list; each function declares one module.
class Declarer {
 public:
  Declarer(const ModelConfig& config, const ParallelSizes& sizes) : c_(config), sizes_(sizes) {}

  std::vector<ParameterDeclaration> run() {
    const Axes vocabulary = Axes::shard(0, sizes_.tp);
    const int last_chunk = std::max(1, static_cast<int>(sizes_.layout.chunks.size())) - 1;
    ParameterDeclaration& table = add("model.embed_tokens.weight", {c_.vocab_size, c_.hidden_size}, vocabulary);
    table.weight_decay = false;
    if (c_.tie_embeddings && sizes_.pp > 1) table.placement.second_stage = last_chunk % sizes_.pp;
    for (layer_ = 0; layer_ < c_.num_layers(); ++layer_) {
      chunk_ = chunk_of(layer_);
      prefix_ = fmt::format("model.layers.{}.", layer_);
      norm("input_layernorm.weight", c_.hidden_size, token_replica());
      attention();
      norm("post_attention_layernorm.weight", c_.hidden_size, token_replica());
      if (c_.is_moe(layer_)) {
        moe();
      } else {
        swiglu("mlp.", c_.intermediate_size);
      }
    }
    layer_ = -1;
    chunk_ = last_chunk;
    prefix_.clear();
    norm("model.norm.weight", c_.hidden_size, token_replica());
    if (!c_.tie_embeddings) add("lm_head.weight", {c_.vocab_size, c_.hidden_size}, vocabulary);
    return std::move(list_);
  }

 private:
  ParameterDeclaration& add(const std::string& name, Shape shape, Axes tp) {
    ParameterDeclaration d;
    d.name = prefix_ + name;
    d.shape = shape;
    d.init_std = c_.init_std;
    d.placement.tp = tp;
    d.layer = layer_;
    d.chunk = chunk_;
    d.placement.stage = chunk_ % sizes_.pp;
    return list_.emplace_back(std::move(d));
  }

  ParameterDeclaration& residual(const std::string& name, Shape shape, Axes tp) {
    ParameterDeclaration& d = add(name, shape, tp);
    d.init_std = c_.init_std / std::sqrt(2.0 * static_cast<double>(c_.num_layers()));
    return d;
  }

  ParameterDeclaration& constant(const std::string& name, std::int64_t size, Initial initial, Axes tp) {
    ParameterDeclaration& d = add(name, {size}, tp);
    d.initial = initial;
    d.weight_decay = false;
    return d;
  }
  void norm(const std::string& name, std::int64_t size, Axes tp) { constant(name, size, Initial::ones, tp); }

  int chunk_of(std::int64_t layer) const {
    const std::vector<ChunkRange>& chunks = sizes_.layout.chunks;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (layer >= chunks[i].first_layer && layer < chunks[i].last_layer) return static_cast<int>(i);
    }
    HYSPARSE_CHECK(chunks.empty(), "layer {} is in no chunk", layer);
    return 0;
  }

  /// A replica that sees every token, or under sequence parallelism its share of them.
  Axes token_replica() const {
    return Axes::replicate(sizes_.layout.sequence_parallel && sizes_.tp > 1 ? Partial::partial
                                                                            : Partial::equal);
  }
  /// A replica that sees its own heads, or its own slice of the tokens, only.
  Axes part_replica() const { return Axes::replicate(sizes_.tp > 1 ? Partial::partial : Partial::equal); }

  void gate(const std::string& name, GateKind kind) {
    if (kind == GateKind::none) return;
    const std::int64_t width = kind == GateKind::headwise ? c_.num_heads : c_.num_heads * c_.head_dim;
    add("self_attn." + name, {width, c_.hidden_size}, Axes::shard(0, sizes_.tp));
  }
  void sinks(const std::string& name) {
    if (c_.attention_sinks)
      constant("self_attn." + name, c_.num_heads, Initial::zeros, Axes::shard(0, sizes_.tp));
  }

  void attention() {
    const std::int64_t q = c_.num_heads * c_.head_dim, kv = c_.num_kv_heads * c_.head_dim;
    const Axes heads = Axes::shard(0, sizes_.tp);
    const Axes groups = Axes::shard(0, static_cast<int>(std::min<std::int64_t>(sizes_.tp, c_.num_kv_heads)));
    const LayerType type = c_.layer_types[static_cast<std::size_t>(layer_)];
    add("self_attn.q_proj.weight", {q, c_.hidden_size}, heads);
    if (c_.has_own_kv(layer_)) {
      add("self_attn.k_proj.weight", {kv, c_.hidden_size}, groups);
      add("self_attn.v_proj.weight", {kv, c_.hidden_size}, groups);
    }
    if (c_.use_qk_norm) {
      norm("self_attn.q_norm.weight", c_.head_dim, part_replica());
      if (c_.has_own_kv(layer_)) norm("self_attn.k_norm.weight", c_.head_dim, part_replica());
    }
    if (type == LayerType::full_attention) {
      gate("gate_proj.weight", c_.full_attention_gate);
    } else {
      if (type == LayerType::sparse_attention) {
        gate("sparse_gate_proj.weight", c_.attention_gate);
        sinks("sparse_sinks");
      }
      if (c_.has_window_branch(layer_)) {
        gate("window_gate_proj.weight", c_.attention_gate);
        sinks("window_sinks");
      }
    }
    residual("self_attn.o_proj.weight", {c_.hidden_size, q}, Axes::shard(1, sizes_.tp));
  }

  void swiglu(const std::string& module, std::int64_t width) {
    add(module + "gate_proj.weight", {width, c_.hidden_size}, Axes::shard(0, sizes_.tp));
    add(module + "up_proj.weight", {width, c_.hidden_size}, Axes::shard(0, sizes_.tp));
    residual(module + "down_proj.weight", {c_.hidden_size, width}, Axes::shard(1, sizes_.tp));
  }

  void expert(ParameterDeclaration& d, int width_dim) {
    d.stacked_experts = true;
    d.placement.mesh = MeshKind::expert;
    d.placement.tp = Axes::replicate();
    d.placement.ep = Axes::shard(0, sizes_.ep);
    d.placement.etp = Axes::shard(width_dim, sizes_.etp);
  }

  void moe() {
    const MoeConfig& m = *c_.moe;
    const std::int64_t D = c_.hidden_size, X = m.num_experts, F = m.intermediate_size;
    add("mlp.gate.weight", {X, D}, part_replica());
    if (m.has_correction_bias) {
      constant("mlp.gate.e_score_correction_bias", X, Initial::zeros, Axes::replicate()).trainable = false;
    }
    expert(add("mlp.experts.gate_proj.weight", {X, F, D}, {}), 1);
    expert(add("mlp.experts.up_proj.weight", {X, F, D}, {}), 1);
    expert(residual("mlp.experts.down_proj.weight", {X, D, F}, {}), 2);
    if (m.shared_experts > 0) swiglu("mlp.shared_experts.", m.shared_experts * F);
  }

  const ModelConfig& c_;
  const ParallelSizes& sizes_;
  std::vector<ParameterDeclaration> list_;
  std::string prefix_;
  std::int64_t layer_ = -1;
  int chunk_ = 0;
};

void fill_normal(const Tensor& value, const Shape& global, const Box& box, std::uint64_t seed,
                 const std::string& name, double std) {
  const CounterRandom random(seed, name);
  dispatch_float(value.dtype(), [&]<class T>() {
    T* v = value.data<T>();
    for_each_element(global, box, [&](std::int64_t local, std::int64_t index) {
      // Rounded to f32 first, so that f32 and f64 runs start from the same model.
      v[local] = static_cast<T>(static_cast<float>(std * random.normal(static_cast<std::uint64_t>(index))));
    });
  });
}

}  // namespace

std::vector<ParameterDeclaration> declare_parameters(const ModelConfig& config, const ParallelSizes& sizes) {
  return Declarer(config, sizes).run();
}

std::string expert_name(const std::string& stacked_name, std::int64_t expert) {
  const std::string marker = ".experts.";
  const std::size_t at = stacked_name.find(marker);
  HYSPARSE_CHECK(at != std::string::npos, "name {}", stacked_name);
  return fmt::format("{}{}.{}", stacked_name.substr(0, at + marker.size()), expert,
                     stacked_name.substr(at + marker.size()));
}

void initialize(const ParameterDeclaration& declaration, const Box& box, std::uint64_t seed,
                const Tensor& value) {
  HYSPARSE_CHECK(value.shape() == box.shape, "{}: {} for box {}", declaration.name, value.shape().str(),
                 box.shape.str());
  if (declaration.initial == Initial::normal && !declaration.stacked_experts) {
    fill_normal(value, declaration.shape, box, seed, declaration.name, declaration.init_std);
  } else if (declaration.initial == Initial::normal) {
    const Shape global = without_first(declaration.shape);
    const Box rest{without_first(box.offset), without_first(box.shape)};
    for (std::int64_t e = 0; e < box.shape[0]; ++e) {
      fill_normal(value.slice(e, e + 1).view(rest.shape), global, rest, seed,
                  expert_name(declaration.name, box.offset[0] + e), declaration.init_std);
    }
  } else {
    dispatch_float(value.dtype(), [&]<class T>() {
      std::fill_n(value.data<T>(), value.numel(), declaration.initial == Initial::ones ? T(1) : T(0));
    });
  }
}

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts counts;
  for (const ParameterDeclaration& d : declare_parameters(config, {})) {
    const std::int64_t n = d.shape.numel();
    counts.total += n;
    if (d.stacked_experts) {
      counts.experts += n;
      counts.active += n / config.moe->num_experts * config.moe->top_k;
    } else if (d.name != "model.embed_tokens.weight" || config.tie_embeddings) {
      counts.active += n;
    }
  }
  return counts;
}

double model_flops_per_token(const ModelConfig& config, std::int64_t seq_len) {
  const auto mean_visible = [&](std::int64_t limit) {  // mean over t < T of min(t + 1, limit)
    const double T = static_cast<double>(seq_len), m = static_cast<double>(std::min(limit, seq_len));
    return (m * (m + 1) / 2 + (T - m) * m) / T;
  };
  double keys = 0;
  for (std::int64_t layer = 0; layer < config.num_layers(); ++layer) {
    const LayerType type = config.layer_types[static_cast<std::size_t>(layer)];
    if (type == LayerType::full_attention) keys += mean_visible(seq_len);
    if (type == LayerType::sparse_attention) keys += mean_visible(config.sparse_topk_tokens);
    if (config.has_window_branch(layer)) keys += mean_visible(config.sliding_window);
  }
  const double attention = 12.0 * static_cast<double>(config.num_heads * config.head_dim) * keys;
  return 6.0 * static_cast<double>(count_parameters(config).active) + attention;
}

}  // namespace hysparse
