/// Matrix products: OpenBLAS on one thread, our threads split the output. Deterministic for a fixed number of
/// threads.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace hysparse::cpu {

enum class Transpose : bool { no, yes };

/// Row-major C (m, n; leading dimension ldc) = alpha * op(A) (m, k) * op(B) (k, n) + beta * C on the calling
/// thread alone: what kernels that thread over heads, tiles or experts call. beta = 0 does not read C. Any size
/// may be zero (k = 0 scales C by beta).
void gemm(Transpose ta, Transpose tb, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc);
void gemm(Transpose ta, Transpose tb, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
          const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double beta, double* c,
          std::int64_t ldc);

/// The same, threaded over a split of C's rows or columns. A, B, C are contiguous 2-D tensors of one dtype:
/// C (m, n) = op(A) op(B) (+ C when `accumulate`).
void matmul(const Stream& stream, Transpose ta, Transpose tb, const Tensor& a, const Tensor& b, const Tensor& c,
            bool accumulate);

}  // namespace hysparse::cpu
