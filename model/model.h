/// The whole model on one rank: embedding, layers in hybrid blocks, final norm, head and loss. Layers hold
/// pointers into a ParameterSet, which must outlive the model.
#pragma once

#include <memory>
#include <vector>

#include "model/attention_layer.h"
#include "model/config.h"
#include "model/feed_forward.h"
#include "model/parameter_set.h"

namespace hysparse {

/// One decoder layer.
struct Layer {
  AttentionLayer attention;
  FeedForward feed_forward;
  const Parameter* input_norm;
  const Parameter* post_attention_norm;
  bool feeds_followers;  ///< a full layer that has sparse layers after it
};

/// What one MoE layer did with a micro-batch, for the bias update and the metrics.
struct RoutingLoad {
  std::int64_t layer = 0;
  Tensor expert_counts;  ///< i64 [X]
  std::int64_t dropped = 0;
};

struct LossResult {
  Var loss_sum;                   ///< [1], sum over target tokens of the cross-entropy
  double loss = 0;                ///< the same, in double
  std::int64_t targets = 0;       ///< number of target tokens
  std::vector<Var> load_balance;  ///< one per MoE layer when aux_loss > 0: sum over sequences
  std::vector<Var> z;             ///< one per MoE layer when z_loss > 0: sum over tokens
  std::vector<RoutingLoad> loads;
};

class Model {
 public:
  Model(const ModelConfig& config, const ParameterSet& parameters);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const { return config_; }
  const std::vector<Layer>& layers() const { return layers_; }

  /// Final hidden states, normed: tokens i32 [S*T] -> [S*T, D]. Collective over `ep`; fills the routing parts
  /// of `result` when it is given.
  Var hidden(Tape& tape, const Tensor& tokens, std::int64_t sequences, std::int64_t seq_len, Communicator& ep,
             LossResult* result) const;

  /// Cross-entropy of targets i32 [S*T], and the terms of the objective.
  LossResult loss(Tape& tape, const Tensor& tokens, const Tensor& targets, std::int64_t sequences,
                  std::int64_t seq_len, Communicator& ep) const;

  const Parameter& embedding() const { return *embedding_; }
  const Parameter& head() const { return *head_; }  ///< the embedding when tied
  const Parameter& final_norm() const { return *norm_; }

 private:
  ModelConfig config_;
  const Parameter *embedding_, *head_, *norm_;
  std::vector<Layer> layers_;
};

}  // namespace hysparse
