/// The training loop. One step reads like docs/architecture.md says it: load, forward, backward, reduce the
/// gradients, norm and clip, optimizer step on this rank's shard, gather the parameters, balance the experts,
/// report.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/thread_pool.h"
#include "launch/expert_balance.h"
#include "launch/run_config.h"
#include "launch/run_lock.h"
#include "launch/run_log.h"
#include "launch/step_observer.h"
#include "launch/training_data.h"
#include "launch/training_state.h"
#include "model/parallel_model.h"
#include "optim/sharded_optimizer.h"
#include "parallel/process_group.h"

namespace hysparse {

class Trainer {
 public:
  /// Builds everything, resumes from run.dir when a checkpoint is there. What can be the user's fault fails
  /// here, on every rank alike, before anything in run.dir is changed. Collective.
  /// With an observer the run is a proof: it starts from the initial values and leaves nothing in run.dir.
  Trainer(Runtime& runtime, const RunConfig& config, StepObserver* observer = nullptr);

  /// Trains to the last step, or until a stop signal: finishes the step, saves. Collective.
  void run();

  std::int64_t step() const { return progress_.step; }

 private:
  /// The sums over the data-parallel ranks that a step's report needs.
  struct Totals {
    double loss = 0;
    bool stop = false;
    std::int64_t memory_bytes = 0;  ///< largest peak of any rank
  };

  void start();
  void run_steps();
  StepReport train_step();
  StepBatch load_batches();
  std::vector<MicroBatch> micro_batches(StepBatch batch) const;
  Objective objective(std::int64_t targets) const;
  void start_reductions(int chunk, std::int64_t layer);
  void await_parameters(std::int64_t layer);
  Totals reduce_totals(double local_loss, std::int64_t targets);
  double learning_rate() const;
  std::optional<double> maybe_validate();
  void maybe_save(bool last);

  Runtime& runtime_;
  RunConfig config_;
  StepObserver* observer_;
  ThreadPool pool_;
  Stream stream_;
  ProcessGroups groups_;
  std::unique_ptr<TrainingData> data_;
  ParameterSet parameters_;
  ShardedOptimizer optimizer_;
  ParallelModel model_;
  ExpertBalance balance_;
  TrainingProgress progress_;
  std::unique_ptr<RunLock> lock_;             // rank 0; null when observed
  std::unique_ptr<CheckpointWriter> writer_;  // null when observed
  std::unique_ptr<RunLog> log_;               // rank 0; null when observed
  bool stop_ = false;
};

}  // namespace hysparse
