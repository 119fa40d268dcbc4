/// The attention of one layer: projections, q/k norm and RoPE, one of the three kinds, gates, output
/// projection. The three parts are apart so that training (attention over whole sequences) and generation (one
/// token against a cache) share projections and gates.
#pragma once

#include <functional>
#include <optional>

#include "attention/attention.h"
#include "attention/rope.h"
#include "model/config.h"
#include "model/parameter_set.h"
#include "parallel/tensor_parallel.h"

namespace hysparse {

/// S sequences of T tokens, one after another.
struct Sequences {
  std::int64_t count = 1, seq_len = 1;
  Tensor documents = {};  ///< starts (attention/documents.h) of the S*T tokens; undefined: no masks
  std::int64_t tokens() const { return count * seq_len; }
};

class AttentionLayer {
 public:
  AttentionLayer(const ModelConfig& config, std::int64_t layer, const ParameterSet& parameters);

  LayerType type() const { return type_; }
  bool has_own_kv() const { return k_proj_ != nullptr; }
  bool has_window_branch() const { return window_branch_; }

  struct Projections {
    Var q;     ///< [S*T, H*E], normed and rotated
    Var k, v;  ///< [S*T, G*E]; values undefined for a layer that reads only shared ones
  };
  /// x [S*T, D] (already normed); row r has the position of row r % rows - documents[r] of `rotation`, which is
  /// rope_table of rope() (documents: of positions that count from each document's first token).
  Projections project(Tape& tape, const Var& x, const Tensor& rotation, const Tensor& documents = {}) const;
  RopeConfig rope() const { return {config_.rope_theta, config_.rotary_dim()}; }

  /// The layer over whole sequences: x in the layout of the residual stream (TensorParallel), the result too.
  /// A full layer sets `oracle` when `want_oracle`; a sparse layer reads it. `chosen`: the lists a full layer
  /// chose; set by the first run, used instead of choosing by a second one (recomputation).
  /// `seen` is called with what it has just chosen.
  using Seen = std::function<void(const Projections& own, const AttentionShape& shape, BlockLists& chosen)>;
  Var forward(Tape& tape, const Var& x, const Sequences& sequences, const TensorParallel& tp, bool want_oracle,
              std::optional<Oracle>& oracle, std::optional<BlockLists>& chosen, const Seen& seen = {}) const;

  /// Gates the branch outputs ([S*T, H*E] each; full layer: `first` alone) and projects them: -> [S*T, D].
  /// `first`: full or block-sparse output, undefined on sliding layers. `window`: undefined where there is no
  /// such branch.
  Var finish(Tape& tape, const Var& x, const Var& first, const Var& window) const;

  /// The keys and values that each branch of a sparse layer reads.
  struct Sources {
    Var sparse_k, sparse_v, window_k, window_v;
  };
  Sources sources(const Projections& own, const Oracle& oracle) const;

  /// Heads and groups of one of `tp` ranks; with more ranks than groups consecutive ranks hold the same one.
  AttentionShape shape(const Sequences& sequences, const TensorParallel& tp) const;

  const Parameter* sparse_sinks() const { return sparse_sinks_; }
  const Parameter* window_sinks() const { return window_sinks_; }

 private:
  /// The tp ranks that hold heads of this rank's group.
  SharedGroup shared_group(const TensorParallel& tp) const;

  const ModelConfig& config_;
  LayerType type_;
  bool window_branch_;
  const Parameter *q_proj_, *k_proj_, *v_proj_, *o_proj_;
  const Parameter *q_norm_, *k_norm_;
  const Parameter* first_gate_;  ///< full: gate_proj, sparse: sparse_gate_proj
  const Parameter* window_gate_;
  const Parameter *sparse_sinks_, *window_sinks_;
};

}  // namespace hysparse
