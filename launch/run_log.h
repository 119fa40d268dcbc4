/// What a run leaves in its directory beside checkpoints, and says on the console: config.yaml, metrics.jsonl,
/// tb/, log.txt. Rank 0 only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "launch/expert_balance.h"
#include "launch/metrics.h"
#include "launch/progress.h"
#include "launch/run_config.h"
#include "launch/tensorboard.h"
#include "launch/training_state.h"
#include "parallel/mesh.h"

namespace hysparse {

/// What the trainer knows of one step.
struct StepReport {
  std::int64_t step = 0;
  double loss = 0;
  double lr = 0;
  double grad_norm = 0;
  std::int64_t tokens = 0;        ///< since the run began
  double seconds = 0;             ///< of the step, validation left out
  std::int64_t memory_bytes = 0;  ///< largest peak of any rank
  MemoryTable memory;             ///< of this rank when it held most
  bool skipped = false;
  ExpertBalance::Load load;
  std::optional<double> valid_loss;
};

class RunLog {
 public:
  /// Makes the run directory. Throws Error, naming run.dir, when it or what is in it cannot be written; nothing
  /// is changed then. `peak_flops`: of
  /// all ranks together, for MFU.
  RunLog(const RunConfig& config, const Mesh& mesh, int threads, double peak_flops, const TrainingStart& start);

  void step(const StepReport& report);
  /// A line of its own.
  void message(const std::string& text) { progress_->message(text); }
  /// The last words: `stopped` by a signal, or done.
  void finish(bool stopped);

 private:
  std::int64_t total_steps_;
  double flops_per_token_;
  double peak_flops_;
  std::int64_t last_tokens_;
  MemoryTable memory_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<EventWriter> events_;
  std::unique_ptr<Progress> progress_;
};

}  // namespace hysparse
