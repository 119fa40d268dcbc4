#include "launch/model_layout.h"

namespace hysparse {

ModelLayout model_layout(const RunConfig& config) {
  return {.chunks = partition(config.model, config.train.seq_len, config.parallel.mesh.pp,
                              static_cast<int>(config.parallel.virtual_stages)),
          .sequence_parallel = config.parallel.sequence_parallel};
}

}  // namespace hysparse
