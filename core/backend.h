/// The one place where an op meets a backend. A kernel has the same name and arguments in every backend's
/// namespace; a backend that is not built refuses here, by name.
#pragma once

#include "core/device.h"
#include "core/error.h"

namespace hysparse::detail {

inline void require_cpu(const Stream& stream, const char* kernel) {
  if (!stream.device.is_cpu()) {
    throw_error("{}: no kernel for device {} in this build; use train.device: cpu", kernel,
                stream.device.str());
  }
}

}  // namespace hysparse::detail

/// HYSPARSE_LAUNCH(stream, kernel, args...): calls cpu::kernel(stream, args...) for a CPU stream.
#define HYSPARSE_LAUNCH(stream, kernel, ...)               \
  [&] {                                                    \
    ::hysparse::detail::require_cpu(stream, #kernel);      \
    return ::hysparse::cpu::kernel((stream), __VA_ARGS__); \
  }()
