#include "core/cuda/memory.h"

#include <algorithm>

#include "core/cuda/context.h"
#include "core/cuda/error.h"
#include "core/memory.h"

namespace hysparse::cuda {
namespace {

cudaStream_t native() {
  return static_cast<cudaStream_t>(current_stream().native);
}

/// Gives what freed blocks keep back to the driver, for a block that does not fit between them.
void trim(Device device) {
  cudaMemPool_t pool = nullptr;
  synchronize(current_stream());
  HYSPARSE_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device.index));
  HYSPARSE_CUDA_CHECK(cudaMemPoolTrimTo(pool, 0));
}

}  // namespace

void* allocate(std::int64_t bytes, Device device) {
  HYSPARSE_CHECK(current_stream().device == device, "{} is open, memory asked for on {}",
                 current_stream().device.str(), device.str());
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1));
  void* data = nullptr;
  cudaError_t status = cudaMallocAsync(&data, size, native());
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    trim(device);
    status = cudaMallocAsync(&data, size, native());
  }
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    std::size_t free_bytes = 0, total_bytes = 0;
    HYSPARSE_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    throw_failure("out of memory on {}: {} asked for, {} of {} free; in use: {}", device.str(),
                  bytes_text(bytes), bytes_text(static_cast<std::int64_t>(free_bytes)),
                  bytes_text(static_cast<std::int64_t>(total_bytes)), memory_now(device).str());
  }
  check(status, "cudaMallocAsync", __FILE__, __LINE__);
  return data;
}

void free(void* data) noexcept {
  // At the end of the process the driver may be gone already, and the memory with it.
  (void)cudaFreeAsync(data, native());
}

void* allocate_page_locked(std::int64_t bytes) {
  void* data = nullptr;
  const cudaError_t status =
      cudaHostAlloc(&data, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1)), cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw_failure("out of memory: {} of page-locked memory asked for; in use: {}", bytes_text(bytes),
                  memory_now().str());
  }
  check(status, "cudaHostAlloc", __FILE__, __LINE__);
  return data;
}

void free_page_locked(void* data) noexcept {
  (void)cudaFreeHost(data);
}

void copy(void* to, Device to_device, const void* from, Device from_device, std::int64_t bytes) {
  if (bytes == 0) return;
  const cudaMemcpyKind kind = to_device.is_cpu()     ? cudaMemcpyDeviceToHost
                              : from_device.is_cpu() ? cudaMemcpyHostToDevice
                                                     : cudaMemcpyDeviceToDevice;
  if (to_device.is_cpu()) wait_with_progress(current_stream());
  HYSPARSE_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, native()));
  if (to_device.is_cpu()) HYSPARSE_CUDA_CHECK(cudaStreamSynchronize(native()));
}

void zero(void* data, std::int64_t bytes) {
  if (bytes == 0) return;
  HYSPARSE_CUDA_CHECK(cudaMemsetAsync(data, 0, static_cast<std::size_t>(bytes), native()));
}

}  // namespace hysparse::cuda
