/// How a model is spread over a mesh, beyond what the mesh itself says, and what its backward keeps.
#pragma once

#include <cstdint>
#include <vector>

#include "model/partition.h"

namespace hysparse {

struct ModelLayout {
  /// Layers of each pipeline chunk, by global chunk; chunk c lies on stage c % stages. Empty: one chunk of all
  /// layers.
  std::vector<ChunkRange> chunks;
  bool sequence_parallel = false;
};

/// What backward makes again instead of keeping. Results are bitwise the same.
enum class Recompute {
  none,
  selective,  ///< the insides of attention and feed-forward; norms and residual stream are kept
  layer,      ///< all of a layer but its input, and the oracle's K, V and lists
};

}  // namespace hysparse
