/// metrics.jsonl of a run directory: one JSON object a line and step, flushed line by line, numbers with the
/// shortest digits that read back as the same double, numbers that are not finite as null.
///
///   {"step":50,"loss":2.31,"lr":0.003,"grad_norm":0.71,"tokens":204800,"tokens_per_s":9120.5,"step_ms":449.1,
///    "tflops":0.061,"mfu":null,"memory_bytes":193986560,
///    "memory":{"parameters":20971520,"gradients":20971520,...},
///    "moe":{"load_max_over_mean":{"1":1.4,"2":1.2},"dropped":0},"valid_loss":2.40}
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/memory.h"
#include "launch/append_file.h"

namespace hysparse {

/// What is known about one training step. Times and rates are the step's, counted over all ranks.
struct StepMetrics {
  std::int64_t step = 0;
  double loss = 0;  ///< cross-entropy alone, nats per target token of the global batch
  double lr = 0;
  double grad_norm = 0;     ///< before clipping
  std::int64_t tokens = 0;  ///< target tokens since the run began
  double tokens_per_s = 0;
  double step_ms = 0;
  double tflops = 0;              ///< model FLOPs (no recompute) per second, in 1e12
  std::optional<double> mfu;      ///< model FLOPs over the peak of the devices; absent: the peak is not known
  std::int64_t memory_bytes = 0;  ///< the largest of any rank
  MemoryTable memory;             ///< of rank 0 when it held most, by purpose
  bool skipped = false;           ///< the update was left out (train.nonfinite: skip)

  struct LayerLoad {
    std::int64_t layer = 0;
    double max_over_mean = 1;
  };
  std::vector<LayerLoad> moe_load;  ///< per MoE layer; empty: a dense model
  double moe_dropped = 0;           ///< share of assignments dropped by the capacity

  std::optional<double> valid_loss;       ///< on evaluation steps
  std::optional<double> all_to_all_ms;    ///< when measured
  std::optional<double> pipeline_bubble;  ///< share of the step a stage idles; with pipelines
};

/// The line of one step, without the newline.
std::string metrics_line(const StepMetrics& metrics);

/// Drops what a broken run left behind the checkpoint at `step`: a torn last line, lines that are no metrics,
/// and the steps above. Atomic; a file with nothing to drop, or no file, is left alone. Throws Failure when it
/// cannot write.
void trim_metrics(const std::string& path, std::int64_t step);

/// Appends to a metrics file.
class MetricsWriter {
 public:
  /// Trims to `resume_step` (0: a fresh run), then opens for appending. Throws Failure when it cannot.
  MetricsWriter(const std::string& path, std::int64_t resume_step);

  /// One line, handed to the system before this returns. Throws Failure (disk full).
  void write(const StepMetrics& metrics);

 private:
  AppendFile file_;
};

}  // namespace hysparse
