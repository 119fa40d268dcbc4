#include "launch/converted_source.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "checkpoint/region.h"
#include "core/error.h"

namespace hysparse {
namespace {

/// Gathers the keys that differ.
class Differences {
 public:
  explicit Differences(std::string source) : source_(std::move(source)) {}
  template <class T>
  void check(const char* key, const T& target, const T& source) {
    if (target != source) add(key, fmt::format("{}", target), fmt::format("{}", source));
  }
  void add(const std::string& key, const std::string& target, const std::string& source) {
    list_.push_back(fmt::format("{}: {}: {} has {}", key, target, source_, source));
  }
  void finish() const {
    if (!list_.empty()) throw Error(list_);
  }

 private:
  std::string source_;
  std::vector<std::string> list_;
};

void compare_moe(const MoeConfig& target, const MoeConfig& source, Differences& differences) {
  differences.check("model.moe.num_experts", target.num_experts, source.num_experts);
  differences.check("model.moe.top_k", target.top_k, source.top_k);
  differences.check("model.moe.intermediate_size", target.intermediate_size, source.intermediate_size);
  differences.check("model.moe.shared_experts", target.shared_experts, source.shared_experts);
  differences.check("model.moe.first_k_dense", target.first_k_dense, source.first_k_dense);
  differences.check("model.moe.normalize_top_k", target.normalize_top_k, source.normalize_top_k);
  differences.check("model.moe.routed_scaling", target.routed_scaling, source.routed_scaling);
  const auto name = [](RouterScoring s) {
    return std::string(s == RouterScoring::sigmoid ? "sigmoid" : "softmax");
  };
  differences.check("model.moe.scoring", name(target.scoring), name(source.scoring));
}

void compare(const ModelConfig& target, const ModelConfig& source, Differences& differences) {
  differences.check("model.num_layers", target.num_layers(), source.num_layers());
  differences.check("model.vocab_size", target.vocab_size, source.vocab_size);
  differences.check("model.hidden_size", target.hidden_size, source.hidden_size);
  differences.check("model.num_heads", target.num_heads, source.num_heads);
  differences.check("model.num_kv_heads", target.num_kv_heads, source.num_kv_heads);
  differences.check("model.head_dim", target.head_dim, source.head_dim);
  const bool dense = !target.moe || target.moe->first_k_dense > 0;
  if (dense) differences.check("model.intermediate_size", target.intermediate_size, source.intermediate_size);
  differences.check("model.use_qk_norm", target.use_qk_norm, source.use_qk_norm);
  differences.check("model.rope.theta", target.rope_theta, source.rope_theta);
  differences.check("model.rope.partial", target.rope_partial, source.rope_partial);
  differences.check("model.rms_norm_eps", target.rms_norm_eps, source.rms_norm_eps);
  if (target.tie_embeddings && !source.tie_embeddings) differences.add("model.tie_embeddings", "true", "false");
  if (target.moe.has_value() != source.moe.has_value()) {
    const auto kind = [](const ModelConfig& c) { return std::string(c.moe ? "experts" : "null"); };
    differences.add("model.moe", kind(target), kind(source));
  } else if (target.moe) {
    compare_moe(*target.moe, *source.moe, differences);
  }
  if (target.num_layers() != source.num_layers()) return;
  for (std::int64_t i = 0; i < target.num_layers(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const LayerType to = target.layer_types[at], from = source.layer_types[at];
    if (to != from && from != LayerType::full_attention) {
      differences.add(fmt::format("model.layer_types: layer {}", i), layer_type_name(to),
                      layer_type_name(from) + ", and only full_attention becomes another");
      return;
    }
  }
}

class ConvertedSource final : public ModelSource {
 public:
  ConvertedSource(std::unique_ptr<ModelSource> source, const ModelConfig& target)
      : source_(std::move(source)), source_declarations_(declare_parameters(source_->config(), {})) {
    config_ = target;
    description_ = source_->description();
    max_position_embeddings_ = source_->max_position_embeddings();
    tokenizer_ = source_->tokenizer();
    warnings_ = source_->warnings();
    for (const ParameterDeclaration& d : source_declarations_) by_name_[d.name] = &d;
    Differences differences(description_);
    compare(target, source_->config(), differences);
    differences.finish();
    require_sources();
  }

  void load(ParameterSet& parameters) const override {
    for (const ParameterSet::Entry& e : parameters.entries()) {
      const SourceRead read{&e.declaration, e.box, e.parameter.value};
      this->read({&read, 1});
    }
  }

  void read(std::span<const SourceRead> reads) const override {
    std::vector<SourceRead> from_source;
    for (const SourceRead& r : reads) {
      if (const ParameterDeclaration* d = source_of(*r.declaration)) from_source.push_back({d, r.box, r.out});
    }
    source_->read(from_source);
    for (const SourceRead& r : reads) {
      if (source_of(*r.declaration) == nullptr) {
        fill(r.out, initial(*r.declaration));
      } else if (r.declaration->name.ends_with(".self_attn.o_proj.weight")) {
        scale(r.out, output_factor(r.declaration->layer));
      }
    }
  }

 private:
  const ParameterDeclaration* find(const std::string& name) const {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? nullptr : it->second;
  }
  /// What of the source a parameter is, null when it is new.
  const ParameterDeclaration* source_of(const ParameterDeclaration& d) const {
    if (const ParameterDeclaration* same = find(d.name)) return same;
    return d.name == "lm_head.weight" ? find("model.embed_tokens.weight") : nullptr;
  }
  LayerType type(std::int64_t layer) const { return config_.layer_types[static_cast<std::size_t>(layer)]; }
  LayerType source_type(std::int64_t layer) const {
    return source_->config().layer_types[static_cast<std::size_t>(layer)];
  }

  static bool is_new_kind(const std::string& name) {
    const bool gate = name.ends_with("gate_proj.weight") && name.find(".self_attn.") != std::string::npos;
    return gate || name.ends_with("_sinks") || name.ends_with(".e_score_correction_bias");
  }

  /// Throws Error unless every parameter is in the source in its shape or one that can begin anew, and the
  /// source has nothing that would be lost but what a sparse layer does not read.
  void require_sources() const {
    std::map<std::string, const ParameterDeclaration*> targets;
    const std::vector<ParameterDeclaration> declarations = declare_parameters(config_, {});
    for (const ParameterDeclaration& d : declarations) {
      targets[d.name] = &d;
      const ParameterDeclaration* from = source_of(d);
      if (from == nullptr && !(d.layer >= 0 && is_new_kind(d.name))) {
        throw_error("{}: has no {} {}, which the config calls for", description_, d.name, d.shape.str());
      }
      if (from != nullptr && from->shape != d.shape) {
        throw_error("{}: {} has shape {}, the config calls for {}", description_, from->name, from->shape.str(),
                    d.shape.str());
      }
    }
    for (const ParameterDeclaration& d : source_declarations_) {
      if (targets.contains(d.name)) continue;
      const bool unread = d.name.find(".k_proj.") != std::string::npos ||
                          d.name.find(".v_proj.") != std::string::npos ||
                          d.name.find(".k_norm.") != std::string::npos;
      if (unread || is_zero(d)) continue;
      throw_error(
          "{}: {} has no place in the config's model{}", description_, d.name,
          d.name.ends_with("e_score_correction_bias") ? " (model.moe.bias_update_rate above 0 makes one)" : "");
    }
  }

  bool is_zero(const ParameterDeclaration& d) const {
    if (d.shape.rank() > 1) return false;  // a bias or sinks; an unused gate still halves
    const Tensor value = Tensor::empty(d.shape, DType::f32);
    const SourceRead read{&d, whole_box(d.shape), value};
    source_->read({&read, 1});
    const std::vector<float> v = value.to_vector<float>();
    return d.name.ends_with("e_score_correction_bias") &&
           std::all_of(v.begin(), v.end(), [](float x) { return x == 0.0F; });
  }

  /// Whether the sparse branch of a layer made from a full one begins behind its sinks.
  bool far_is_quiet(std::int64_t layer) const {
    return config_.share_kv && config_.attention_sinks && config_.has_window_branch(layer);
  }

  /// Of a parameter that the source has not.
  double initial(const ParameterDeclaration& d) const {
    if (d.name.ends_with(".sparse_sinks") && far_is_quiet(d.layer)) {
      return std::log(static_cast<double>(config_.sparse_topk_tokens)) + ConversionValues::sparse_margin;
    }
    return d.name.ends_with("_sinks") ? ConversionValues::window_sink : 0.0;
  }

  bool has(std::int64_t layer, const char* gate, bool in_source) const {
    const std::string name = fmt::format("model.layers.{}.self_attn.{}.weight", layer, gate);
    if (in_source) return find(name) != nullptr;
    const LayerType t = type(layer);
    const GateKind kind = t == LayerType::full_attention ? config_.full_attention_gate : config_.attention_gate;
    return kind != GateKind::none;
  }

  double output_factor(std::int64_t layer) const {
    const LayerType to = type(layer);
    if (to == source_type(layer)) {
      const char* gate = to == LayerType::full_attention     ? "gate_proj"
                         : to == LayerType::sparse_attention ? "sparse_gate_proj"
                                                             : "window_gate_proj";
      return has(layer, gate, false) && !has(layer, gate, true) ? 2.0 : 1.0;
    }
    const double gate = config_.attention_gate == GateKind::none ? 1.0 : 0.5;
    const bool two =
        to == LayerType::sparse_attention && config_.has_window_branch(layer) && !far_is_quiet(layer);
    return 1.0 / (gate * (two ? 2.0 : 1.0));
  }

  static void fill(const Tensor& out, double value) {
    dispatch_float(out.dtype(),
                   [&]<class T>() { std::fill_n(out.data<T>(), out.numel(), static_cast<T>(value)); });
  }
  static void scale(const Tensor& out, double factor) {
    if (factor == 1.0) return;
    dispatch_float(out.dtype(), [&]<class T>() {
      T* v = out.data<T>();
      for (std::int64_t i = 0; i < out.numel(); ++i) v[i] = static_cast<T>(v[i] * static_cast<T>(factor));
    });
  }

  std::unique_ptr<ModelSource> source_;
  std::vector<ParameterDeclaration> source_declarations_;
  std::map<std::string, const ParameterDeclaration*> by_name_;
};

}  // namespace

std::unique_ptr<ModelSource> convert(std::unique_ptr<ModelSource> source, const ModelConfig& target) {
  return std::make_unique<ConvertedSource>(std::move(source), target);
}

}  // namespace hysparse
