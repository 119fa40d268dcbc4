#include "model/attention_layer.h"

#include <algorithm>
#include <vector>

#include "attention/gate.h"
#include "core/ops/linear.h"

namespace hysparse {

AttentionLayer::AttentionLayer(const ModelConfig& config, std::int64_t layer, const ParameterSet& parameters)
    : config_(config),
      type_(config.layer_types[static_cast<std::size_t>(layer)]),
      window_branch_(config.has_window_branch(layer)) {
  const auto find = [&](const char* name) {
    return parameters.find(fmt::format("model.layers.{}.self_attn.{}", layer, name));
  };
  q_proj_ = find("q_proj.weight");
  k_proj_ = find("k_proj.weight");
  v_proj_ = find("v_proj.weight");
  o_proj_ = find("o_proj.weight");
  q_norm_ = find("q_norm.weight");
  k_norm_ = find("k_norm.weight");
  first_gate_ = find(type_ == LayerType::full_attention ? "gate_proj.weight" : "sparse_gate_proj.weight");
  window_gate_ = find("window_gate_proj.weight");
  sparse_sinks_ = find("sparse_sinks");
  window_sinks_ = find("window_sinks");
  HYSPARSE_CHECK(q_proj_ && o_proj_ && (k_proj_ != nullptr) == config.has_own_kv(layer), "layer {}", layer);
}

AttentionLayer::Projections AttentionLayer::project(Tape& tape, const Var& x, const Tensor& rotation,
                                                    const Tensor& documents) const {
  const auto rotated = [&](const Parameter& weight, const Parameter* norm) {
    return qk_norm_rope(tape, linear(tape, x, weight), norm, config_.rms_norm_eps, config_.head_dim, rotation,
                        documents);
  };
  Projections p;
  p.q = rotated(*q_proj_, q_norm_);
  if (k_proj_ != nullptr) {
    p.k = rotated(*k_proj_, k_norm_);
    p.v = linear(tape, x, *v_proj_);
  }
  return p;
}

AttentionLayer::Sources AttentionLayer::sources(const Projections& own, const Oracle& oracle) const {
  Sources s;
  s.sparse_k = config_.share_kv ? oracle.k : own.k;
  s.sparse_v = config_.share_kv ? oracle.v : own.v;
  s.window_k = config_.share_kv_window ? oracle.k : own.k;
  s.window_v = config_.share_kv_window ? oracle.v : own.v;
  return s;
}

AttentionShape AttentionLayer::shape(const Sequences& sequences, const TensorParallel& tp) const {
  return {sequences.count,
          sequences.seq_len,
          config_.num_heads / tp.size(),
          std::max<std::int64_t>(1, config_.num_kv_heads / tp.size()),
          config_.head_dim,
          sequences.documents};
}

SharedGroup AttentionLayer::shared_group(const TensorParallel& tp) const {
  const int mates = tp.size() / static_cast<int>(std::min<std::int64_t>(config_.num_kv_heads, tp.size()));
  if (mates == 1) return {};
  return {tp.group(), tp.rank() / mates * mates, mates};
}

Var AttentionLayer::forward(Tape& tape, const Var& x, const Sequences& sequences, const TensorParallel& tp,
                            bool want_oracle, std::optional<Oracle>& oracle, std::optional<BlockLists>& chosen,
                            const Seen& seen) const {
  const AttentionShape sizes = shape(sequences, tp);
  const Var entered = tp.enter(tape, x);
  const Tensor rotation = rope_table(tape.stream(), rope(), 0, sequences.seq_len, x.value.dtype());
  const Projections own = project(tape, entered, rotation, sequences.documents);
  Var first, window;
  if (type_ == LayerType::full_attention) {
    std::optional<SelectionConfig> selection;
    if (want_oracle && !chosen) selection = SelectionConfig{config_.sparse_block_size, config_.top_blocks()};
    FullAttentionResult result = full_attention(tape, own.q, own.k, own.v, sizes, selection, shared_group(tp));
    if (selection) {
      chosen = std::move(result.blocks);
      if (seen) seen(own, sizes, *chosen);
    }
    first = result.out;
    oracle.reset();
    if (want_oracle) oracle = Oracle{own.k, own.v, *chosen};
  } else if (type_ == LayerType::sparse_attention) {
    HYSPARSE_CHECK(oracle.has_value());
    const Sources from = sources(own, *oracle);
    first =
        block_sparse_attention(tape, own.q, from.sparse_k, from.sparse_v, oracle->blocks, sparse_sinks_, sizes);
    if (window_branch_) {
      window = window_attention(tape, own.q, from.window_k, from.window_v, config_.sliding_window,
                                window_sinks_, sizes);
    }
  } else {
    window = window_attention(tape, own.q, own.k, own.v, config_.sliding_window, window_sinks_, sizes);
  }
  return tp.leave(tape, finish(tape, entered, first, window));
}

Var AttentionLayer::finish(Tape& tape, const Var& x, const Var& first, const Var& window) const {
  std::vector<GatedBranch> branches;
  const auto branch = [&](const Var& out, const Parameter* gate) {
    if (!out.value.defined()) return;
    branches.push_back({out, gate != nullptr ? linear(tape, x, *gate) : Var{}});
  };
  branch(first, first_gate_);
  branch(window, window_gate_);
  const std::int64_t gated_heads = branches[0].x.dim(1) / config_.head_dim;  // this rank's
  const bool plain = branches.size() == 1 && !branches[0].gate_logits.value.defined();
  const Var gated = plain ? branches[0].x : gated_sum(tape, branches, gated_heads);
  return linear(tape, gated, *o_proj_);
}

}  // namespace hysparse
