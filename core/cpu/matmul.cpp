#include "core/cpu/matmul.h"

#include <algorithm>

#include <cblas.h>

#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

/// Output elements times depth below which a second thread costs more than it brings.
constexpr std::int64_t work_per_thread = 1 << 17;

/// OpenBLAS must not start threads of its own: ours split the work.
const bool one_blas_thread = (openblas_set_num_threads(1), true);

CBLAS_TRANSPOSE flag(Transpose t) {
  return t == Transpose::yes ? CblasTrans : CblasNoTrans;
}
blasint size(std::int64_t n) {
  return static_cast<blasint>(n);
}

template <class T>
void scale(std::int64_t m, std::int64_t n, T beta, T* c, std::int64_t ldc) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == T(0) ? T(0) : beta * c[i * ldc + j];
  }
}

/// One thread's part of C: rows [r0, r1), columns [c0, c1).
template <class T>
struct Product {
  Transpose ta, tb;
  const T *a, *b;
  T* c;
  std::int64_t m, n, k;
  T beta;

  void block(std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1) const {
    const std::int64_t lda = ta == Transpose::yes ? m : k;
    const std::int64_t ldb = tb == Transpose::yes ? k : n;
    const T* a_part = a + (ta == Transpose::yes ? r0 : r0 * lda);
    const T* b_part = b + (tb == Transpose::yes ? c0 * ldb : c0);
    gemm(ta, tb, r1 - r0, c1 - c0, k, T(1), a_part, lda, b_part, ldb, beta, c + r0 * n + c0, n);
  }
};

}  // namespace

void gemm(Transpose ta, Transpose tb, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) return scale(m, n, beta, c, ldc);
  cblas_sgemm(CblasRowMajor, flag(ta), flag(tb), size(m), size(n), size(k), alpha, a, size(lda), b, size(ldb),
              beta, c, size(ldc));
}

void gemm(Transpose ta, Transpose tb, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
          const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double beta, double* c,
          std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) return scale(m, n, beta, c, ldc);
  cblas_dgemm(CblasRowMajor, flag(ta), flag(tb), size(m), size(n), size(k), alpha, a, size(lda), b, size(ldb),
              beta, c, size(ldc));
}

void matmul(const Stream& stream, Transpose ta, Transpose tb, const Tensor& a, const Tensor& b, const Tensor& c,
            bool accumulate) {
  HYSPARSE_CHECK(a.rank() == 2 && b.rank() == 2 && c.rank() == 2 && one_blas_thread);
  const bool at = ta == Transpose::yes, bt = tb == Transpose::yes;
  const std::int64_t m = a.dim(at ? 1 : 0), k = a.dim(at ? 0 : 1), n = b.dim(bt ? 0 : 1);
  HYSPARSE_CHECK(b.dim(bt ? 1 : 0) == k && c.dim(0) == m && c.dim(1) == n && a.dtype() == b.dtype() &&
                     b.dtype() == c.dtype(),
                 "A {} B {} C {}", a.shape().str(), b.shape().str(), c.shape().str());
  dispatch_float(c.dtype(), [&]<class T>() {
    const Product<T> product{ta, tb, a.data<T>(), b.data<T>(), c.data<T>(), m, n, k, accumulate ? T(1) : T(0)};
    // Split the longer side of C: the shorter operand is packed by every thread.
    const std::int64_t side = std::max(m, n), other = std::min(m, n);
    const std::int64_t grain =
        std::max<std::int64_t>(16, work_per_thread / std::max<std::int64_t>(1, other * k));
    stream.pool->parallel_for(side, grain, [&](std::int64_t begin, std::int64_t end) {
      if (m >= n) {
        product.block(begin, end, 0, n);
      } else {
        product.block(0, m, begin, end);
      }
    });
  });
}

}  // namespace hysparse::cpu
