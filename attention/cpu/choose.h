/// The oracle's choice from scores that are already there: the same rule as BlockSelector's (select.h). Row r
/// of S*T is the token at position r % seq_len of its sequence and sees blocks up to its own, from that of
/// documents[r] on (starts i32 [S*T]) where defined.
#pragma once

#include "core/device.h"
#include "core/tensor.h"

namespace hysparse::cpu {

/// blocks i32 [R, K] <- for rows [first, first + R) the K visible blocks with the largest max over p of scores
/// [P, R, N], ties to the lower index; ascending, unused entries -1.
void choose_blocks(const Stream& stream, const Tensor& scores, std::int64_t first, std::int64_t seq_len,
                   std::int64_t block_size, const Tensor& documents, const Tensor& blocks);

/// counts i32 [S*T, 1] <- min(top, visible blocks).
void count_blocks(const Stream& stream, std::int64_t seq_len, std::int64_t block_size, const Tensor& documents,
                  std::int64_t top, const Tensor& counts);

}  // namespace hysparse::cpu
