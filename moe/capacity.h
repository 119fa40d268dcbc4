/// Dropping of assignments over an expert's capacity.
#pragma once

#include "moe/config.h"
#include "moe/token_slice.h"

namespace hysparse {

/// Assignments of a sequence that an expert takes at most: ceil(capacity_factor * seq_len * k / X).
std::int64_t expert_capacity(const MoeConfig& config, std::int64_t seq_len);

/// Each expert takes at most expert_capacity assignments of a sequence, by position, then slot. The others get
/// -1 in ids i32 [T, k] and 0 in weights [T, k]. Returns how many these were among the T tokens of `slice`, i64
/// [1]. Collective over slice.group if it has several ranks: one all_gather of X + 1 numbers, what each has of
/// the sequence that goes on at its end, since only earlier tokens count.
Tensor drop_over_capacity(const Stream& stream, const Tensor& ids, const Tensor& weights,
                          const MoeConfig& config, std::int64_t seq_len, const TokenSlice& slice);

}  // namespace hysparse
