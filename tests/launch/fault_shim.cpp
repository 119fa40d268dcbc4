// For LD_PRELOAD: one rank's N-th float64 matrix product throws, so that the program needs no switch for it.
//   HYSPARSE_FAULT_RANK, HYSPARSE_FAULT_CALL  which rank, which of its calls of cblas_dgemm, from 1
//   HYSPARSE_FAULT_COUNTS                     each rank that ends in order writes its number of calls to this
//   path
//                                             with ".RANK" behind it
// Only ranks are touched; every other program under mpirun goes on as without it.
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>

#include <cblas.h>
#include <dlfcn.h>

namespace {

using Product = decltype(&cblas_dgemm);

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

long long number(const char* name) {
  const std::string value = variable(name);
  return value.empty() ? -1 : std::stoll(value);
}

struct Fault {
  const long long rank = number("OMPI_COMM_WORLD_RANK");
  const long long call =
      rank >= 0 && rank == number("HYSPARSE_FAULT_RANK") ? number("HYSPARSE_FAULT_CALL") : -1;
  const std::string counts = variable("HYSPARSE_FAULT_COUNTS");
  std::atomic<long long> calls{0};

  ~Fault() {
    if (rank >= 0 && !counts.empty()) std::ofstream(counts + "." + std::to_string(rank)) << calls;
  }
};

Fault fault;

}  // namespace

extern "C" void cblas_dgemm(const enum CBLAS_ORDER order, const enum CBLAS_TRANSPOSE ta,
                            const enum CBLAS_TRANSPOSE tb, const blasint m, const blasint n, const blasint k,
                            const double alpha, const double* a, const blasint lda, const double* b,
                            const blasint ldb, const double beta, double* c, const blasint ldc) {
  static const auto product = reinterpret_cast<Product>(dlsym(RTLD_NEXT, "cblas_dgemm"));
  const long long call = ++fault.calls;
  if (call == fault.call)
    throw std::runtime_error("call " + std::to_string(call) + " of cblas_dgemm was made to fail");
  product(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
