#include "data/loader.h"

#include <algorithm>

#include "core/error.h"
#include "core/memory.h"

namespace hysparse {
namespace {

/// Writes windows into batches, one after another.
class RowWriter {
 public:
  RowWriter(WindowSource& source, bool document_mask)
      : source_(source),
        length_(source.seq_len()),
        window_(static_cast<std::size_t>(length_ + 1)),
        starts_(static_cast<std::size_t>(document_mask ? length_ + 1 : 0)) {}

  /// A batch of rows that do not count.
  Batch empty(std::int64_t rows) const {
    const MemoryScope scope(MemoryPurpose::data);
    Batch batch{Tensor::zeros({rows * length_}, DType::i32), Tensor::empty({rows * length_}, DType::i32), {}};
    std::fill_n(batch.targets.data<std::int32_t>(), batch.targets.numel(), -1);
    if (!starts_.empty()) batch.document_starts = Tensor::zeros({rows * length_}, DType::i32);
    return batch;
  }

  void write(std::int64_t index, Batch& batch, std::int64_t row) {
    source_.fill(index, window_.data(), starts_.empty() ? nullptr : starts_.data());
    std::copy(window_.begin(), window_.end() - 1, batch.inputs.data<std::int32_t>() + row * length_);
    std::int32_t* targets = batch.targets.data<std::int32_t>() + row * length_;
    std::copy(window_.begin() + 1, window_.end(), targets);
    if (starts_.empty()) return;
    std::copy(starts_.begin(), starts_.end() - 1, batch.document_starts.data<std::int32_t>() + row * length_);
    for (std::int64_t t = 1; t <= length_; ++t) {
      if (starts_[static_cast<std::size_t>(t)] == t) targets[t - 1] = -1;
    }
  }

 private:
  WindowSource& source_;
  std::int64_t length_;
  std::vector<std::int32_t> window_, starts_;
};

}  // namespace

Loader::Loader(WindowSource& source, const LoaderConfig& config) : source_(source), config_(config) {
  HYSPARSE_CHECK(config.dp_size >= 1 && config.dp_rank >= 0 && config.dp_rank < config.dp_size,
                 "dp rank {} of {}", config.dp_rank, config.dp_size);
  if (config.global_batch_size < 1 || config.micro_batch_size < 1) {
    throw_error("global_batch_size {} and micro_batch_size {} must be at least 1", config.global_batch_size,
                config.micro_batch_size);
  }
  const std::int64_t rows = config.micro_batch_size * config.dp_size;
  if (config.global_batch_size % rows != 0) {
    throw_error("global_batch_size {} is not a multiple of micro_batch_size {} * dp {} = {}",
                config.global_batch_size, config.micro_batch_size, config.dp_size, rows);
  }
  micro_batches_ = config.global_batch_size / rows;
}

Batch load_windows(WindowSource& source, std::int64_t first, std::int64_t end, std::int64_t rows,
                   bool document_mask) {
  RowWriter writer(source, document_mask);
  Batch batch = writer.empty(rows);
  for (std::int64_t row = 0; row < std::min(rows, end - first); ++row) writer.write(first + row, batch, row);
  return batch;
}

StepBatch Loader::load(std::int64_t consumed_samples) {
  HYSPARSE_CHECK(consumed_samples >= 0, "consumed samples {}", consumed_samples);
  const std::int64_t rows = config_.micro_batch_size, own = micro_batches_ * rows;
  const std::int64_t first = config_.dp_rank * own;
  RowWriter writer(source_, config_.document_mask);
  StepBatch step;
  for (std::int64_t m = 0; m < micro_batches_; ++m) step.micro_batches.push_back(writer.empty(rows));
  step.targets = config_.global_batch_size * source_.seq_len();
  for (std::int64_t i = 0; i < config_.global_batch_size; ++i) {
    const std::int64_t index = consumed_samples + i;
    if (config_.document_mask) step.targets -= source_.crossings(index);
    if (i < first || i >= first + own) continue;
    writer.write(index, step.micro_batches[static_cast<std::size_t>((i - first) / rows)], (i - first) % rows);
  }
  return step;
}

}  // namespace hysparse
