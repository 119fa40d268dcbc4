#include "launch/validation.h"

#include <algorithm>
#include <vector>

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
  std::vector<std::int32_t> window(static_cast<std::size_t>(seq_len + 1));
  const Tensor sums = Tensor::zeros({2}, DType::f64);
  for (std::int64_t first = 0; first < count; first += stride) {
    const Tensor inputs = Tensor::zeros({sequences * seq_len}, DType::i32);
    const Tensor targets = Tensor::empty({sequences * seq_len}, DType::i32);
    std::fill_n(targets.data<std::int32_t>(), targets.numel(), -1);  // beyond the last window: ignored
    for (std::int64_t s = 0; s < sequences; ++s) {
      const std::int64_t index = first + data.rank() * sequences + s;
      if (index >= count) break;
      source.fill(index, window.data());
      std::copy(window.begin(), window.end() - 1, inputs.data<std::int32_t>() + s * seq_len);
      std::copy(window.begin() + 1, window.end(), targets.data<std::int32_t>() + s * seq_len);
    }
    Tape tape(stream, {.recording = false});
    const LossResult result = model.loss(tape, inputs, targets, sequences, seq_len, ep);
    sums.data<double>()[0] += result.loss;
    sums.data<double>()[1] += static_cast<double>(result.targets);
  }
  data.all_reduce(sums);
  return sums.data<double>()[0] / std::max(1.0, sums.data<double>()[1]);
}

}  // namespace hysparse
