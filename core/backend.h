/// The one place where an op meets a backend. A kernel has the same name and arguments in every backend's
/// namespace: folder/cpu/x.h and folder/cuda/x.h, which an op includes both. A backend that is not built
/// refuses here, by name.
#pragma once

#include "core/device.h"
#include "core/error.h"

namespace hysparse {

/// Whether this build has the CUDA backend (HYSPARSE_CUDA).
inline constexpr bool cuda_build = HYSPARSE_CUDA_BUILD;

namespace detail {

inline void require_cpu(const Stream& stream, const char* kernel) {
  if (!stream.device.is_cpu()) {
    throw_error("{}: no kernel for device {} in this build; use train.device: cpu", kernel,
                stream.device.str());
  }
}

}  // namespace detail
}  // namespace hysparse

/// HYSPARSE_LAUNCH(stream, kernel, args...): calls cpu::kernel(stream, args...) for a CPU stream,
/// cuda::kernel(stream, args...) for that of a GPU.
#define HYSPARSE_LAUNCH(stream, kernel, ...)                                                 \
  [&] {                                                                                      \
    if constexpr (::hysparse::cuda_build) {                                                  \
      if (!(stream).device.is_cpu()) return ::hysparse::cuda::kernel((stream), __VA_ARGS__); \
    } else {                                                                                 \
      ::hysparse::detail::require_cpu((stream), #kernel);                                    \
    }                                                                                        \
    return ::hysparse::cpu::kernel((stream), __VA_ARGS__);                                   \
  }()
