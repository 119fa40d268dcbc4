#include "launch/validation.h"

#include <algorithm>

#include "data/loader.h"
#include "parallel/whereabouts.h"

namespace hysparse {
namespace {

/// Tokens that one forward pass takes at a time, about.
constexpr std::int64_t batch_tokens = 2048;

}  // namespace

double validation_loss(ParallelModel& model, WindowSource& source, std::int64_t windows, bool document_mask,
                       const ProcessGroups& groups) {
  const std::int64_t seq_len = source.seq_len();
  const std::int64_t count = std::min(windows, source.windows());
  const std::int64_t sequences = std::max<std::int64_t>(1, batch_tokens / seq_len);
  const std::int64_t stride = sequences * groups.dp->size();
  std::vector<MicroBatch> batches;
  for (std::int64_t first = 0; first < count; first += stride) {
    Batch batch = load_windows(source, first + groups.dp->rank() * sequences, count, sequences, document_mask);
    batches.push_back({std::move(batch.inputs), std::move(batch.targets), sequences, seq_len,
                       std::move(batch.document_starts)});
  }
  const StepSums result = model.evaluate(batches);
  at_layer(-1);
  const Tensor sums = Tensor::from<double>({result.loss, static_cast<double>(result.targets)}, {2});
  groups.world->all_reduce(sums);
  return sums.data<double>()[0] / std::max(1.0, sums.data<double>()[1]);
}

}  // namespace hysparse
