/// The model, or the chunk of it that a pipeline stage holds: embedding (first chunk), layers in hybrid blocks,
/// final norm, head and loss (last chunk). Layers hold pointers into a ParameterSet, which must outlive the
/// model.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "model/attention_layer.h"
#include "model/boundary.h"
#include "model/choice_hook.h"
#include "model/config.h"
#include "model/feed_forward.h"
#include "model/parameter_set.h"
#include "model/partition.h"
#include "parallel/tensor_parallel.h"

namespace hysparse {

/// The residual stream between layers: hidden + delta, `delta` (undefined before the first layer) being what
/// the next norm adds.
struct ResidualStream {
  Var hidden, delta;
};

/// One decoder layer.
struct Layer {
  AttentionLayer attention;
  FeedForward feed_forward;
  const Parameter* input_norm;
  const Parameter* post_attention_norm;
  bool feeds_followers;  ///< a full layer that has sparse layers after it
};

/// What one MoE layer did with a micro-batch on this rank's tokens, for the bias update and the metrics.
struct RoutingLoad {
  std::int64_t layer = 0;
  Tensor expert_counts;  ///< i64 [X]
  Tensor dropped;        ///< i64 [1]
};

struct LossResult {
  Var loss_sum;                   ///< [1], sum over target tokens of the cross-entropy; undefined before the
                                  ///< last chunk. The same on every tp rank.
  Tensor loss;                    ///< f64 [1], the same
  std::vector<Var> load_balance;  ///< one per MoE layer when aux_loss > 0: this rank's terms of the sum over
                                  ///< sequences
  std::vector<Var> z;             ///< one per MoE layer when z_loss > 0: the sum over this rank's tokens
  std::vector<RoutingLoad> loads;
};

/// How a model works together with other ranks, and what it keeps. By default: alone, everything.
struct ModelOptions {
  TensorParallel tp;
  ExpertParallel experts;
  Recompute recompute = Recompute::none;
  std::optional<ChunkRange> chunk;  ///< absent: all layers
  ChoiceHook* choices = nullptr;    ///< sees what layers choose; must outlive the model
  /// Called before a layer's forward, its parameters being needed from here on; -1: the embedding, num_layers:
  /// the final norm and the head.
  std::function<void(std::int64_t layer)> before_forward;
  /// Called when backward has passed a layer: it adds no more to the layer's gradients, for this micro-batch.
  std::function<void(std::int64_t layer)> after_backward;
};

/// S sequences of T tokens: tokens, targets i32 [S*T], on the device of the stream.
struct MicroBatch {
  Tensor tokens, targets;
  std::int64_t sequences = 1, seq_len = 1;
  Tensor documents = {};            ///< document starts (attention/documents.h), i32 [S*T]; undefined: no masks
  std::int64_t first_sequence = 0;  ///< its place in the global batch, for ModelOptions::choices
};

class Model {
 public:
  Model(const ModelConfig& config, const ParameterSet& parameters, ModelOptions options = {});
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const { return config_; }
  const std::vector<Layer>& layers() const { return layers_; }                ///< of this chunk
  bool is_first() const { return chunk_.first_layer == 0; }                   ///< has the embedding
  bool is_last() const { return chunk_.last_layer == config_.num_layers(); }  ///< has the head

  /// One chunk of the way: `in` is what the chunk before gave, unused by the first. Returns what the next one
  /// gets; the last adds the loss to `result` instead, and returns nothing defined. Routing parts of `result`
  /// are filled by every chunk. Collective over the groups.
  Boundary forward(Tape& tape, const MicroBatch& batch, Boundary in, LossResult* result) const;

  /// Final hidden states, normed: [S*T, D] (under sequence parallelism this rank's rows). Of a whole model.
  Var hidden(Tape& tape, const MicroBatch& batch, LossResult* result) const;
  /// Cross-entropy and the terms of the objective. Of a whole model.
  LossResult loss(Tape& tape, const MicroBatch& batch) const;

  const Parameter& embedding() const { return *embedding_; }  ///< of the first chunk
  const Parameter& head() const { return *head_; }            ///< of the last; the embedding when tied
  const Parameter& final_norm() const { return *norm_; }      ///< of the last

 private:
  ResidualStream run_layers(Tape& tape, const MicroBatch& batch, ResidualStream x,
                            std::optional<Oracle>& oracle, LossResult* result) const;
  void announce(std::int64_t layer) const;
  void mark(Tape& tape, const Var& hidden, std::int64_t layer) const;

  ModelConfig config_;
  ModelOptions options_;
  std::unique_ptr<Communicator> alone_;  // the experts' group where none was given
  ChunkRange chunk_;
  const Parameter *embedding_ = nullptr, *head_ = nullptr, *norm_ = nullptr;
  std::vector<Layer> layers_;
};

}  // namespace hysparse
