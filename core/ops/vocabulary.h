/// Which rows of a vocabulary a table holds, where that is split over ranks, and which ids it has.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/tensor.h"

namespace hysparse {

/// A table of R rows holds ids [first, first + R) of a vocabulary with ids [0, size).
struct VocabularyRows {
  std::int64_t first = 0;
  std::int64_t size = 0;
};

/// Ops check ids that lie on the CPU; those on a GPU are checked before they are copied there.
/// Throws Error, naming token and id, for one of ids (i32 [T], on the CPU) outside the vocabulary of `table`,
/// [0, size).
void check_tokens(const Tensor& ids, std::string_view table, std::int64_t size);
/// The same for targets of `size` or more. Returns how many count: those that are not negative.
std::int64_t check_targets(const Tensor& targets, std::string_view table, std::int64_t size);

}  // namespace hysparse
