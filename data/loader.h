/// Batches of one data-parallel rank. A step uses global_batch_size windows, of consecutive indices; rank r of
/// dp_size takes a contiguous run of global_batch_size / dp_size of them, micro-batch by micro-batch:
///
///   index = consumed_samples + dp_rank * (global_batch_size / dp_size) + micro_batch * micro_batch_size + row
///
/// so every dp_size sees the same windows in a step. The whole state of the data is consumed_samples, the
/// windows used by the steps before (step * global_batch_size while the batch size stays): a checkpoint stores
/// this one number, and a run that resumes with it, on any layout, goes on exactly where it was.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "data/sampler.h"

namespace hysparse {

struct LoaderConfig {
  std::int64_t global_batch_size =
      1;  ///< windows of one step over all ranks: a multiple of micro_batch_size * dp_size
  std::int64_t micro_batch_size = 1;
  int dp_rank = 0;
  int dp_size = 1;
};

/// S = micro_batch_size sequences of T = seq_len tokens, one after another.
struct Batch {
  Tensor inputs;   ///< i32 [S * T]
  Tensor targets;  ///< i32 [S * T]: targets[s, t] follows inputs[s, t]
};

/// Windows [first, end) of a source as a batch of `rows` sequences; rows beyond `end` have inputs 0 and targets
/// -1, which the loss ignores.
Batch load_windows(WindowSource& source, std::int64_t first, std::int64_t end, std::int64_t rows);

class Loader {
 public:
  /// `source` must outlive the loader. Throws Error when the batch sizes do not fit each other.
  Loader(WindowSource& source, const LoaderConfig& config);

  /// Micro-batches of a step on this rank.
  std::int64_t micro_batches() const { return micro_batches_; }
  /// Micro-batch 0 <= micro_batch < micro_batches() of the step before which `consumed_samples` windows were
  /// used.
  Batch load(std::int64_t consumed_samples, std::int64_t micro_batch);

 private:
  WindowSource& source_;
  LoaderConfig config_;
  std::int64_t micro_batches_;
};

}  // namespace hysparse
