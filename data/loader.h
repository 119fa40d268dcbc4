/// Batches of one data-parallel rank. A step uses global_batch_size windows, of consecutive indices; rank r of
/// dp_size takes a contiguous run of global_batch_size / dp_size of them, micro-batch by micro-batch:
///
///   index = consumed_samples + dp_rank * (global_batch_size / dp_size) + micro_batch * micro_batch_size + row
///
/// so every dp_size sees the same windows in a step. The whole state of the data is consumed_samples, the
/// windows used by the steps before (step * global_batch_size while the batch size stays): a checkpoint stores
/// this one number, and a run that resumes with it, on any layout, goes on exactly where it was.
///
/// With document masks no token is trained to guess the first token of another document: such targets are -1,
/// and the loss is the mean over those that are left in the global batch. Every rank counts them all, from the
/// bounds of the documents alone, which it holds for its own windows anyway: a binary search a window, no
/// token is read and nothing is sent, so that it can be done ahead of the step and off the main thread.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "data/sampler.h"

namespace hysparse {

struct LoaderConfig {
  std::int64_t global_batch_size =
      1;  ///< windows of one step over all ranks: a multiple of micro_batch_size * dp_size
  std::int64_t micro_batch_size = 1;
  int dp_rank = 0;
  int dp_size = 1;
  bool document_mask = false;
};

/// S = micro_batch_size sequences of T = seq_len tokens, one after another.
struct Batch {
  Tensor inputs;           ///< i32 [S * T]
  Tensor targets;          ///< i32 [S * T]: targets[s, t] follows inputs[s, t]; -1: does not count
  Tensor document_starts;  ///< i32 [S * T], undefined without document masks: for each input the place in its
                           ///< sequence of its document's first token, 0 for the piece that the front cuts
};

/// What a rank needs for a step.
struct StepBatch {
  std::vector<Batch> micro_batches;
  std::int64_t targets = 0;  ///< that count, in the global batch
};

/// Windows [first, end) of a source as a batch of `rows` sequences; rows beyond `end` have inputs 0 and targets
/// -1, which the loss ignores.
Batch load_windows(WindowSource& source, std::int64_t first, std::int64_t end, std::int64_t rows,
                   bool document_mask);

class Loader {
 public:
  /// `source` must outlive the loader. Throws Error when the batch sizes do not fit each other.
  Loader(WindowSource& source, const LoaderConfig& config);

  const LoaderConfig& config() const { return config_; }
  /// Micro-batches of a step on this rank.
  std::int64_t micro_batches() const { return micro_batches_; }
  /// The step before which `consumed_samples` windows were used. The windows are visited in order.
  StepBatch load(std::int64_t consumed_samples);

 private:
  WindowSource& source_;
  LoaderConfig config_;
  std::int64_t micro_batches_;
};

}  // namespace hysparse
