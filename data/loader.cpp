#include "data/loader.h"

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace hysparse {

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

Batch load_windows(WindowSource& source, std::int64_t first, std::int64_t end, std::int64_t rows) {
  const std::int64_t length = source.seq_len();
  Batch batch{Tensor::zeros({rows * length}, DType::i32), Tensor::empty({rows * length}, DType::i32)};
  std::fill_n(batch.targets.data<std::int32_t>(), batch.targets.numel(), -1);
  std::vector<std::int32_t> window(static_cast<std::size_t>(length + 1));
  for (std::int64_t row = 0; row < std::min(rows, end - first); ++row) {
    source.fill(first + row, window.data());
    std::copy(window.begin(), window.end() - 1, batch.inputs.data<std::int32_t>() + row * length);
    std::copy(window.begin() + 1, window.end(), batch.targets.data<std::int32_t>() + row * length);
  }
  return batch;
}

Batch Loader::load(std::int64_t consumed_samples, std::int64_t micro_batch) {
  HYSPARSE_CHECK(consumed_samples >= 0 && micro_batch >= 0 && micro_batch < micro_batches_,
                 "consumed samples {}, micro-batch {} of {}", consumed_samples, micro_batch, micro_batches_);
  const std::int64_t rows = config_.micro_batch_size;
  const std::int64_t first = consumed_samples + config_.dp_rank * micro_batches_ * rows + micro_batch * rows;
  return load_windows(source_, first, first + rows, rows);
}

}  // namespace hysparse
