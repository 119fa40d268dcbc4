/// What crosses between two pipeline chunks. Hybrid blocks are never split by today's partition, so only the
/// residual stream crosses; the oracle has its place for schemes that bridge keys and values between stages.
#pragma once

#include <optional>

#include "attention/attention.h"
#include "core/tape.h"

namespace hysparse {

struct Boundary {
  Var hidden;                    ///< [S*T, D], under sequence parallelism this rank's rows of it
  std::optional<Oracle> oracle;  ///< of a hybrid block that goes on behind the boundary
};

}  // namespace hysparse
