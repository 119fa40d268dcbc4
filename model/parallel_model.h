/// One rank's part of the model over a mesh: its pipeline chunks, the groups they work over, and the way the
/// micro-batches of a step go through them. What a trainer sees of tensor, sequence, expert and pipeline
/// parallelism.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "model/layout.h"
#include "model/model.h"
#include "parallel/pipeline.h"
#include "parallel/process_group.h"
#include "parallel/schedule.h"

namespace hysparse {

/// Weights of the terms of the objective, whose sum over micro-batches and ranks backward starts from: divided
/// by the counts of the global batch here, so that every reduction after is a sum.
struct Objective {
  double cross_entropy = 0;  ///< of a token's loss
  double load_balance = 0;   ///< of a sequence's and layer's balance loss
  double z = 0;              ///< of a token's and layer's z-loss
};

/// What the micro-batches of this rank came to. Cross-entropy is counted once over the ranks: on the last
/// stage, by the first of its tp ranks.
struct StepSums {
  double loss = 0;                 ///< nats, sum over tokens; 0 on ranks that do not count
  std::int64_t targets = 0;        ///< 0 likewise
  std::vector<RoutingLoad> loads;  ///< of this rank's tokens: one per MoE layer of its stage, summed
};

struct ParallelModelOptions {
  ModelLayout layout;
  bool interleaved = false;  ///< the schedule for several chunks per stage; else 1F1B
  Recompute recompute = Recompute::none;
  ChoiceHook* choices = nullptr;                           ///< see ModelOptions
  std::function<void(std::int64_t layer)> before_forward;  ///< see ModelOptions
  /// Backward has passed this layer of a (global) chunk for the last time in this step.
  std::function<void(int chunk, std::int64_t layer)> gradients_complete;
};

class ParallelModel {
 public:
  /// `parameters` (of the same layout) and `groups` must outlive this.
  ParallelModel(const ModelConfig& config, const ParameterSet& parameters, const ProcessGroups& groups,
                const Stream& stream, ParallelModelOptions options);
  ~ParallelModel();

  /// Forward and backward of this rank's micro-batches, all of one shape; gradients add up in the parameters.
  /// Every stage gets the same batches, on the CPU. Collective over all groups.
  StepSums train(std::span<const MicroBatch> batches, const Objective& objective);
  /// Forward only.
  StepSums evaluate(std::span<const MicroBatch> batches);

 private:
  class Work;
  bool counts_loss() const;  // this rank, of its tp group and stage, counts the cross-entropy
  StepSums run(std::span<const MicroBatch> batches, const Objective* objective);

  ModelConfig config_;
  const ParameterSet& parameters_;
  const ProcessGroups& groups_;
  Stream stream_;
  ParallelModelOptions options_;
  std::vector<std::unique_ptr<Model>> chunks_;  // of this stage, in order
  Work* work_ = nullptr;                        // during a run, for the models' hooks
};

}  // namespace hysparse
