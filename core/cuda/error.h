/// Return codes of CUDA calls become Failures.
#pragma once

#include <cuda_runtime_api.h>

#include "core/error.h"

namespace hysparse::cuda {

inline void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) [[likely]]
    return;
  throw_failure("CUDA: {} ({}) from {} at {}:{}", cudaGetErrorString(status), cudaGetErrorName(status), call,
                file, line);
}

}  // namespace hysparse::cuda

/// HYSPARSE_CUDA_CHECK(cudaMemsetAsync(..)): throws Failure, naming the call, when it fails.
#define HYSPARSE_CUDA_CHECK(call) ::hysparse::cuda::check((call), #call, __FILE__, __LINE__)
