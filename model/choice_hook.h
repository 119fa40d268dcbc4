/// A look at the discrete choices of layers, and a way to replace them: what a proof needs that compares two
/// runs whose rounding differs, since a top-k between two nearly equal scores may then fall either way.
#pragma once

#include <cstdint>

#include "attention/attention.h"
#include "moe/router.h"

namespace hysparse {

/// Called once for each choice of a forward pass, not for its repetition by recomputation. Rows count tokens
/// through the global batch: MicroBatch::first_sequence * T is the first of a micro-batch.
class ChoiceHook {
 public:
  virtual ~ChoiceHook() = default;

  struct Blocks {
    std::int64_t layer;
    std::int64_t first_row;    ///< of the micro-batch
    std::int64_t first_group;  ///< of this rank
    const Tensor &q, &k;       ///< [S*T, H*E], [S*T, G*E] of this rank
    const AttentionShape& shape;
  };
  /// A full layer has chosen blocks for its followers; the lists may be overwritten, their shape may not.
  virtual void blocks(const Blocks& where, BlockLists& chosen) = 0;

  struct Experts {
    std::int64_t layer;
    std::int64_t first_row;  ///< of this rank's slice of the tokens
    const Routing& routing;
    const Tensor& bias;  ///< that was added to the scores; may be undefined
  };
  /// A router has chosen: i32 [T, k] to take instead, or an undefined tensor.
  virtual Tensor experts(const Experts& where) = 0;
};

}  // namespace hysparse
