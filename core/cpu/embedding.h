/// Rows of a table by id. ids i32 [T]; the table [V, D] holds those of [first, first + V).
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// out [T, D] = table at ids, zeros for ids that it does not hold.
void embedding_forward(const Stream& stream, const Tensor& ids, const Tensor& table, std::int64_t first,
                       const Tensor& out);
/// dtable += dout [T, D] at the ids that it holds, each row in order of token. Threads split D.
void embedding_backward(const Stream& stream, const Tensor& ids, const Tensor& dout, std::int64_t first,
                        const Tensor& dtable);

}  // namespace hysparse::cpu
