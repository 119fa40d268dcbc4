#include "launch/evaluate.h"

#include <algorithm>
#include <vector>

#include "core/ops/linear.h"
#include "core/ops/scalar.h"
#include "core/ops/vocabulary.h"
#include "data/loader.h"

namespace hysparse {

Evaluation evaluate(const Model& model, WindowSource& source, std::int64_t windows, const Stream& stream,
                    bool gradients, bool document_mask) {
  const std::int64_t seq_len = source.seq_len();
  // As many windows at once as make a batch of about this many tokens.
  constexpr std::int64_t batch_tokens = 2048;
  const std::int64_t most = std::max<std::int64_t>(1, batch_tokens / seq_len);
  Evaluation total;
  double loss_sum = 0;
  std::int64_t targets = windows * seq_len;
  for (std::int64_t i = 0; document_mask && i < windows; ++i) targets -= source.crossings(i);
  const double mean = 1.0 / static_cast<double>(std::max<std::int64_t>(1, targets));
  for (std::int64_t first = 0; first < windows; first += most) {
    const std::int64_t sequences = std::min(most, windows - first);
    const Batch batch = load_windows(source, first, windows, sequences, document_mask);
    check_tokens(batch.inputs, model.embedding().name, model.config().vocab_size);
    total.tokens += check_targets(batch.targets, model.head().name, model.config().vocab_size);
    Tape tape(stream, {.recording = gradients});
    MicroBatch there{batch.inputs.to_device(stream.device), batch.targets.to_device(stream.device), sequences,
                     seq_len};
    if (document_mask) there.documents = batch.document_starts.to_device(stream.device);
    const LossResult result = model.loss(tape, there);
    if (gradients) tape.backward(std::vector<Tape::Root>{{result.loss_sum, mean}});
    loss_sum += scalar_value(result.loss);
    total.sequences += sequences;
  }
  total.loss = loss_sum / static_cast<double>(std::max<std::int64_t>(1, total.tokens));
  return total;
}

Tensor window_logits(const Model& model, WindowSource& source, std::int64_t window, const Stream& stream) {
  const Batch batch = load_windows(source, window, window + 1, 1, false);
  check_tokens(batch.inputs, model.embedding().name, model.config().vocab_size);
  Tape tape(stream, {.recording = false});
  const MicroBatch there{batch.inputs.to_device(stream.device), batch.targets.to_device(stream.device), 1,
                         source.seq_len()};
  LossResult unused;
  return linear(tape, model.hidden(tape, there, &unused), model.head()).value.to_device(Device{});
}

}  // namespace hysparse
