/// Rows of a table by id. ids i32 [T] must lie in [0, V).
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// out [T, D] = table [V, D] at ids.
void embedding_forward(const Stream& stream, const Tensor& ids, const Tensor& table, const Tensor& out);
/// dtable [V, D] += dout [T, D] at ids, each row in order of token. Threads split D.
void embedding_backward(const Stream& stream, const Tensor& ids, const Tensor& dout, const Tensor& dtable);

}  // namespace hysparse::cpu
