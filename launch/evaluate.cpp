#include "launch/evaluate.h"

#include <algorithm>
#include <vector>

namespace hysparse {

Evaluation evaluate(const Model& model, WindowSource& source, std::int64_t windows, const Stream& stream,
                    Communicator& ep, bool gradients) {
  const std::int64_t seq_len = source.seq_len();
  // As many windows at once as make a batch of about this many tokens.
  constexpr std::int64_t batch_tokens = 2048;
  const std::int64_t most = std::max<std::int64_t>(1, batch_tokens / seq_len);
  Evaluation total;
  double loss_sum = 0;
  std::vector<std::int32_t> window(static_cast<std::size_t>(seq_len + 1));
  const double mean = 1.0 / static_cast<double>(windows * seq_len);
  for (std::int64_t first = 0; first < windows; first += most) {
    const std::int64_t sequences = std::min(most, windows - first);
    const Tensor inputs = Tensor::empty({sequences * seq_len}, DType::i32);
    const Tensor targets = Tensor::empty({sequences * seq_len}, DType::i32);
    for (std::int64_t s = 0; s < sequences; ++s) {
      source.fill(first + s, window.data());
      std::copy(window.begin(), window.end() - 1, inputs.data<std::int32_t>() + s * seq_len);
      std::copy(window.begin() + 1, window.end(), targets.data<std::int32_t>() + s * seq_len);
    }
    Tape tape(stream, {.recording = gradients});
    const LossResult result = model.loss(tape, inputs, targets, sequences, seq_len, ep);
    if (gradients) tape.backward(std::vector<Tape::Root>{{result.loss_sum, mean}});
    loss_sum += result.loss;
    total.tokens += result.targets;
    total.sequences += sequences;
  }
  total.loss = loss_sum / static_cast<double>(std::max<std::int64_t>(1, total.tokens));
  return total;
}

}  // namespace hysparse
