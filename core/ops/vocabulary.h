/// Which rows of a vocabulary a table holds, where that is split over ranks.
#pragma once

#include <cstdint>

namespace hysparse {

/// A table of R rows holds ids [first, first + R) of a vocabulary with ids [0, size).
struct VocabularyRows {
  std::int64_t first = 0;
  std::int64_t size = 0;
};

}  // namespace hysparse
