/// What a training run is made of between two steps, and its way into a checkpoint and back: progress,
/// parameters, optimizer moments. Any layout's checkpoint resumes on any layout.
#pragma once

#include <cstdint>
#include <memory>

#include "checkpoint/writer.h"
#include "launch/run_config.h"
#include "launch/training_data.h"
#include "model/parameter_set.h"
#include "optim/sharded_optimizer.h"
#include "parallel/process_group.h"

namespace hysparse {

/// How far a run is. All of the data's and the random numbers' state: they are functions of the seed, the
/// sources and these counts.
struct TrainingProgress {
  std::int64_t step = 0;     ///< steps done
  std::int64_t samples = 0;  ///< windows used
  std::int64_t tokens = 0;   ///< inputs seen; with document masks some of their targets do not count

  void advance(std::int64_t sequences, std::int64_t seq_len) {
    ++step;
    samples += sequences;
    tokens += sequences * seq_len;
  }
};

struct TrainingStart {
  TrainingProgress progress;
  std::string from;  ///< for the log: "step 100 of runs/x/checkpoints/step-000100", "run.init_from ...",
                     ///< "initial values"
  std::vector<std::string> warnings;
};

/// Resumes from run.dir's latest checkpoint; without one, takes the weights of run.init_from; without that,
/// initial values. A checkpoint that any rank finds damaged is passed over for the one before, with a warning.
/// Throws Error on every rank alike when none is left, or when it is of another model or of other data (naming
/// the key that differs). Collective.
TrainingStart load_training_state(Runtime& runtime, const RunConfig& config, TrainingData& data,
                                  ParameterSet& parameters, ShardedOptimizer& optimizer,
                                  const ProcessGroups& groups);

/// Initial values alone. Collective.
void initialize_training_state(const RunConfig& config, ParameterSet& parameters, ShardedOptimizer& optimizer,
                               const ProcessGroups& groups);

/// Throws the Errors of load_training_state that can be told without reading any weights.
void check_training_state(const RunConfig& config, TrainingData& data);

/// The run's writer, with all the memory on the host that saving from a GPU needs. Collective.
std::unique_ptr<CheckpointWriter> open_checkpoint_writer(const RunConfig& config, const ProcessGroups& groups,
                                                         const ParameterSet& parameters,
                                                         const ShardedOptimizer& optimizer);

/// Hands the state to the writer: with checkpoint.async, CheckpointWriter::await_copy() must return before it
/// changes. Collective.
void save_training_state(CheckpointWriter& writer, const RunConfig& config, TrainingData& data,
                         const ProcessGroups& groups, ParameterSet& parameters, ShardedOptimizer& optimizer,
                         const TrainingProgress& progress);

}  // namespace hysparse
