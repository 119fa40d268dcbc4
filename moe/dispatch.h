/// Where every assignment of a token to an expert goes: the order in which rows are sent over the ep group, and
/// the order in which the rank that holds an expert works on them. Made once in forward and kept for backward.
///
/// Sent rows lie by expert, then token, then slot; received rows by sending rank, then expert. An expert's rows
/// are worked on together, in order of sending rank. At ep = 1 nothing is sent: rows are tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "parallel/communicator.h"

namespace hysparse {

struct DispatchPlan {
  // This rank's tokens. N rows are sent: its assignments but the dropped.
  Tensor assignments;  ///< i32 [N]: t * k + slot of each sent row
  Tensor positions;    ///< i32 [T, k]: the sent row of each assignment, -1 where dropped
  // This rank's experts. M rows are worked on, sorted by expert.
  std::vector<std::int64_t> offsets;  ///< [X/ep + 1]: expert e has the sorted rows [offsets[e], offsets[e + 1])
  Tensor sources;  ///< i32 [M]: of each sorted row, the token (ep = 1) or received row (ep > 1)
  // Between them.
  std::vector<std::int64_t> send_rows, receive_rows;  ///< [ep]

  std::int64_t sent() const { return assignments.numel(); }
  std::int64_t worked() const { return sources.numel(); }
};

/// expert_ids i32 [T, k], -1 where dropped. Collective over `ep` (one exchange of counts) when it has several
/// ranks.
DispatchPlan plan_dispatch(const Tensor& expert_ids, std::int64_t num_experts, Communicator& ep);

}  // namespace hysparse
