/// What an op needs of a weight: its value, and the persistent buffer its gradient accumulates into.
#pragma once

#include <string>

#include "core/tensor.h"

namespace hysparse {

struct Parameter {
  std::string name;  ///< as in the export, e.g. "model.layers.3.self_attn.q_proj.weight"
  Tensor value;      ///< this rank's part, in the compute dtype
  Tensor grad;       ///< same shape; f32 (f64 in f64 runs). Backward adds to it; the trainer zeroes it before a
                     ///< step. Undefined where no gradient is wanted.
};

}  // namespace hysparse
