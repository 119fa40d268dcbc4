#include "launch/validation.h"

#include <algorithm>

#include "data/loader.h"

namespace hysparse {
namespace {

/// Tokens that one forward pass takes at a time, about.
constexpr std::int64_t batch_tokens = 2048;

}  // namespace

double validation_loss(const Model& model, SequentialWindows& source, std::int64_t windows,
                       const Stream& stream, Communicator& data, Communicator& ep) {
  const std::int64_t seq_len = source.seq_len();
  const std::int64_t count = std::min(windows, source.windows());
  const std::int64_t sequences = std::max<std::int64_t>(1, batch_tokens / seq_len);
  const std::int64_t stride = sequences * data.size();
  const Tensor sums = Tensor::zeros({2}, DType::f64);
  for (std::int64_t first = 0; first < count; first += stride) {
    const Batch batch = load_windows(source, first + data.rank() * sequences, count, sequences);
    Tape tape(stream, {.recording = false});
    const LossResult result = model.loss(tape, batch.inputs, batch.targets, sequences, seq_len, ep);
    sums.data<double>()[0] += result.loss;
    sums.data<double>()[1] += static_cast<double>(result.targets);
  }
  data.all_reduce(sums);
  return sums.data<double>()[0] / std::max(1.0, sums.data<double>()[1]);
}

}  // namespace hysparse
