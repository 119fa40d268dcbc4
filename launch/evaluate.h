/// Loss of a model over the windows of a token stream, and on request its gradients.
#pragma once

#include <cstdint>

#include "data/sampler.h"
#include "model/model.h"

namespace hysparse {

struct Evaluation {
  double loss = 0;          ///< nats per target: the mean over windows and targets
  std::int64_t tokens = 0;  ///< targets
  std::int64_t sequences = 0;
};

/// The first `windows` windows of `source`, one after another, on one rank. With `gradients`, d(mean
/// loss)/d(parameter) adds to the gradient buffers of the model's parameters. With `document_mask` attention
/// stays inside documents, and their first tokens are no targets. Throws Error for an id outside the model's
/// vocabulary.
Evaluation evaluate(const Model& model, WindowSource& source, std::int64_t windows, const Stream& stream,
                    bool gradients, bool document_mask = false);

/// Logits [seq_len, V] of a window, by the forward pass of training. Throws as evaluate does.
Tensor window_logits(const Model& model, WindowSource& source, std::int64_t window, const Stream& stream);

}  // namespace hysparse
