/// Targets for tests of losses.
#pragma once

#include <vector>

#include "core/random.h"
#include "core/tensor.h"

namespace hysparse::testing {

/// i32 [tokens] in [-1, vocabulary): some are ignored.
inline Tensor random_targets(std::int64_t tokens, std::int64_t vocabulary) {
  std::vector<std::int32_t> targets;
  const CounterRandom random(6, "targets");
  for (std::int64_t t = 0; t < tokens; ++t) {
    targets.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(t),
                                                             static_cast<std::uint64_t>(vocabulary + 1))) -
                      1);
  }
  return Tensor::from(targets, {tokens});
}

}  // namespace hysparse::testing
