/// The weights of one model as the beginning of another of the same sizes: other kinds of attention, gates,
/// sinks or a correction bias that the source has not. docs/export.md, Import.
#pragma once

#include <memory>

#include "launch/model_source.h"

namespace hysparse {

/// What of the target is not in the source begins so that the loss is near the source's:
///
/// A full layer may become a sparse or sliding one; its projections stay those of its position. New gates are
/// sigmoid(0) = 1/2. Sinks of a window (and of a sparse branch that reads the layer's own keys) are
/// window_sink: next to nothing. The sparse branch of shared keys, which the layer's queries were not made for,
/// begins behind sinks of log(topk_tokens) + sparse_margin. o_proj is multiplied by a power of two so that the
/// branches that are left add up to one. A new correction bias is zeros; a head of its own, where the source's
/// is tied, the embedding.
struct ConversionValues {
  static constexpr double window_sink = -5.0;
  static constexpr double sparse_margin = 5.0;
};

/// Throws Error naming each key of `target` that the source cannot become.
std::unique_ptr<ModelSource> convert(std::unique_ptr<ModelSource> source, const ModelConfig& target);

}  // namespace hysparse
