/// GPU memory, allocated, freed and copied in the order of the compute stream (cuda::current_stream()).
#pragma once

#include <cstdint>

#include "core/device.h"

namespace hysparse::cuda {

/// Uninitialised, aligned to 256 bytes. Throws Failure when the memory is not to be had, saying how much of the
/// GPU's is free.
void* allocate(std::int64_t bytes, Device device);
/// Work given to the stream before may still use it.
void free(void* data) noexcept;

/// Host memory that the GPU copies from and to at full speed. Throws Failure when it is not to be had.
void* allocate_page_locked(std::int64_t bytes);
void free_page_locked(void* data) noexcept;

/// Copies between host and GPU or within the GPU. To the host: returns when the bytes are there. From the host:
/// `from` may be reused on return, unless it is page-locked.
void copy(void* to, Device to_device, const void* from, Device from_device, std::int64_t bytes);
void zero(void* data, std::int64_t bytes);

}  // namespace hysparse::cuda
