/// cpu/matmul.h with device tensors: cublasLt.
#pragma once

#include "core/cpu/matmul.h"

namespace hysparse::cuda {

/// C (m, n) = op(A) op(B) (+ C when `accumulate`): a and b both f32 or both bf16, c f32 or bf16 (f32 for f32).
/// Sums are in f32, products of f32 in full (no TF32). Contiguous 2-D tensors; any size may be zero. The same
/// result in every run on one kind of GPU.
void matmul(const Stream& stream, cpu::Transpose ta, cpu::Transpose tb, const Tensor& a, const Tensor& b,
            const Tensor& c, bool accumulate);

}  // namespace hysparse::cuda
