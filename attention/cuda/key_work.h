/// Which query tokens each run of keys is seen by: what dK and dV are summed over. A list is a run of
/// `list_keys` keys of one sequence and group: a block, or 64 keys where no blocks are chosen. Long lists are
/// cut into chunks that are summed apart, so that a popular block does not keep one thread block busy for long.
#pragma once

#include "core/tensor.h"

namespace hysparse::cuda {

struct Problem;

/// In device memory. List of (sequence, group, index): (sequence * G + group) * lists_per_slab + index.
struct KeyWorkView {
  int lists = 0, lists_per_slab = 0, list_keys = 0;
  int chunk = 0;                         ///< tokens
  const int* token_start = nullptr;      ///< [lists + 1] into tokens; null without blocks
  const std::int32_t* tokens = nullptr;  ///< tokens of the sequence, ascending; null without blocks
  const int* item_start = nullptr;  ///< [lists + 1]: items of work before a list; one per chunk, at least one
  const int* slot_start =
      nullptr;  ///< [lists + 1]: partial sums before a list; one per chunk of a list that is cut
};

struct KeyWork {
  KeyWorkView view;
  std::int64_t max_items = 0, max_slots = 0;  ///< bounds known to the host
  Tensor token_start, tokens, item_start, slot_start;
};

/// Asynchronous; reads nothing back. `cut` false: no chunks.
KeyWork make_key_work(const Stream& stream, const Problem& problem, bool cut);

}  // namespace hysparse::cuda
