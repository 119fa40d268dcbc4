/// cpu/embedding.h with device tensors: ids i32; table, out and dout f32 or bf16; dtable f32. Ids are not
/// checked.
#pragma once

#include "core/cpu/embedding.h"

namespace hysparse::cuda {

void embedding_forward(const Stream& stream, const Tensor& ids, const Tensor& table, std::int64_t first,
                       const Tensor& out);
/// Each row's terms are added in order of token, in f32.
void embedding_backward(const Stream& stream, const Tensor& ids, const Tensor& dout, std::int64_t first,
                        const Tensor& dtable);

}  // namespace hysparse::cuda
