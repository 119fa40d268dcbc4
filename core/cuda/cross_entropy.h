/// cpu/cross_entropy.h with device tensors: logits f32 or bf16, lse and scale f32; exponentials and sums in
/// f32. Targets are not checked.
#pragma once

#include "core/cpu/cross_entropy.h"

namespace hysparse::cuda {

void cross_entropy_forward(const Stream& stream, const Tensor& logits, const Tensor& targets, const Tensor& lse,
                           const Tensor& losses);
void cross_entropy_backward(const Stream& stream, const Tensor& logits, const Tensor& targets,
                            std::int64_t first, const Tensor& lse, const Tensor& scale);
void cross_entropy_part(const Stream& stream, const Tensor& logits, const Tensor& targets, std::int64_t first,
                        const Tensor& part);
void cross_entropy_merge(const Stream& stream, const Tensor& parts, const Tensor& targets, const Tensor& lse,
                         const Tensor& losses);

}  // namespace hysparse::cuda
