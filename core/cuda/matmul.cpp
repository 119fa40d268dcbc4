#include "core/cuda/matmul.h"

#include <array>
#include <map>
#include <memory>
#include <type_traits>

#include <cublasLt.h>

#include "core/cuda/context.h"
#include "core/cuda/error.h"

namespace hysparse::cuda {
namespace {

using cpu::Transpose;

void check_blas(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  throw_failure("cublasLt: {} from {} at {}:{}", cublasLtGetStatusString(status), call, __FILE__, line);
}
#define HYSPARSE_BLAS_CHECK(call) check_blas((call), #call, __LINE__)

template <class T, cublasStatus_t (*destroy)(T)>
struct Destroy {
  void operator()(T handle) const { destroy(handle); }
};
template <class T, cublasStatus_t (*destroy)(T)>
using Handle = std::unique_ptr<std::remove_pointer_t<T>, Destroy<T, destroy>>;
using Operation = Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using MatrixLayout = Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

constexpr std::int64_t workspace_bytes = 32 << 20;  // what cuBLAS recommends for Hopper
constexpr int max_alignment = 256;

/// What a product is chosen by.
struct Key {
  bool ta, tb, accumulate;
  DType in, out;
  std::int64_t m, n, k;
  std::array<int, 3> alignment;  // of a, b, c in bytes, up to max_alignment
  friend auto operator<=>(const Key&, const Key&) = default;
};

cudaDataType type_of(DType dtype) {
  HYSPARSE_CHECK(dtype == DType::f32 || dtype == DType::bf16, "dtype {} on the GPU", dtype_name(dtype));
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

int alignment_of(const Tensor& t) {
  const auto address = reinterpret_cast<std::uintptr_t>(t.raw());
  int bytes = max_alignment;
  while (address % static_cast<std::uintptr_t>(bytes) != 0) bytes /= 2;
  return bytes;
}

/// A row-major [rows, columns] matrix is a column-major [columns, rows] one.
MatrixLayout layout(DType dtype, std::int64_t rows, std::int64_t columns) {
  cublasLtMatrixLayout_t made = nullptr;
  HYSPARSE_BLAS_CHECK(cublasLtMatrixLayoutCreate(&made, type_of(dtype), static_cast<std::uint64_t>(columns),
                                                 static_cast<std::uint64_t>(rows), columns));
  return MatrixLayout(made);
}

/// A product ready to run: C^T = op(B)^T op(A)^T in cublasLt's column-major terms, so B is its first matrix.
struct Plan {
  Operation operation;
  MatrixLayout a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

class Products {
 public:
  Products() {
    HYSPARSE_BLAS_CHECK(cublasLtCreate(&handle_));
    workspace_ = Tensor::empty({workspace_bytes}, DType::u8, current_stream().device);
  }

  void run(const Stream& stream, const Key& key, const Tensor& a, const Tensor& b, const Tensor& c) {
    const Plan& plan = this->plan(key);
    const float one = 1, beta = key.accumulate ? 1 : 0;
    HYSPARSE_BLAS_CHECK(cublasLtMatmul(handle_, plan.operation.get(), &one, b.raw(), plan.b.get(), a.raw(),
                                       plan.a.get(), &beta, c.raw(), plan.c.get(), c.raw(), plan.c.get(),
                                       &plan.algorithm, workspace_.raw(), workspace_bytes,
                                       static_cast<cudaStream_t>(stream.native)));
  }

 private:
  const Plan& plan(const Key& key) {
    if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
    constexpr std::size_t most = 4096;  // sizes that change every step (experts) must not gather for ever
    if (plans_.size() >= most) plans_.clear();
    return plans_.emplace(key, make(key)).first->second;
  }

  Plan make(const Key& key) const {
    cublasLtMatmulDesc_t operation = nullptr;
    HYSPARSE_BLAS_CHECK(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    Plan plan{Operation(operation),
              key.ta ? layout(key.in, key.k, key.m) : layout(key.in, key.m, key.k),
              key.tb ? layout(key.in, key.n, key.k) : layout(key.in, key.k, key.n),
              layout(key.out, key.m, key.n),
              {}};
    const cublasOperation_t first = key.tb ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = key.ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    HYSPARSE_BLAS_CHECK(
        cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof(first)));
    HYSPARSE_BLAS_CHECK(
        cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof(second)));

    cublasLtMatmulPreference_t made = nullptr;
    HYSPARSE_BLAS_CHECK(cublasLtMatmulPreferenceCreate(&made));
    const Preference preference(made);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
      HYSPARSE_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(made, what, &value, sizeof(value)));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes));
    // Parts of a sum over k are added in f32 and in order.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(key.alignment[1]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(key.alignment[0]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(key.alignment[2]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(key.alignment[2]));

    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    HYSPARSE_BLAS_CHECK(cublasLtMatmulAlgoGetHeuristic(handle_, operation, plan.b.get(), plan.a.get(),
                                                       plan.c.get(), plan.c.get(), made, 1, &best, &found));
    if (found == 0) {
      throw_failure("cublasLt: no algorithm for {} x {} x {}, {} to {}", key.m, key.n, key.k,
                    dtype_name(key.in), dtype_name(key.out));
    }
    plan.algorithm = best.algo;
    return plan;
  }

  cublasLtHandle_t handle_ = nullptr;
  Tensor workspace_;
  std::map<Key, Plan> plans_;
};

/// Made with the first product, never unmade: at the end of the process the driver may be gone before it.
Products& products() {
  static auto* const made = new Products;
  return *made;
}

}  // namespace

void matmul(const Stream& stream, Transpose ta, Transpose tb, const Tensor& a, const Tensor& b, const Tensor& c,
            bool accumulate) {
  HYSPARSE_CHECK(a.rank() == 2 && b.rank() == 2 && c.rank() == 2);
  const bool at = ta == Transpose::yes, bt = tb == Transpose::yes;
  const std::int64_t m = a.dim(at ? 1 : 0), k = a.dim(at ? 0 : 1), n = b.dim(bt ? 0 : 1);
  HYSPARSE_CHECK(b.dim(bt ? 1 : 0) == k && c.dim(0) == m && c.dim(1) == n && a.dtype() == b.dtype(),
                 "A {} B {} C {}", a.shape().str(), b.shape().str(), c.shape().str());
  for (const Tensor& t : {a, b, c}) HYSPARSE_CHECK(!t.device().is_cpu(), "{} lies on the CPU", t.shape().str());
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (!accumulate) c.zero_();
    return;
  }
  const Key key{
      at, bt, accumulate, a.dtype(), c.dtype(), m, n, k, {alignment_of(a), alignment_of(b), alignment_of(c)}};
  products().run(stream, key, a, b, c);
}

}  // namespace hysparse::cuda
