#include "core/storage.h"

#include <algorithm>
#include <cstdlib>

#include "core/backend.h"
#include "core/cuda/memory.h"
#include "core/error.h"
#include "core/memory_counter.h"

namespace hysparse {
namespace {

std::int64_t round_up(std::int64_t bytes) {
  return std::max((bytes + Storage::alignment - 1) / Storage::alignment * Storage::alignment,
                  Storage::alignment);
}

void* allocate_bytes(std::int64_t bytes, Device device) {
  if constexpr (cuda_build) {
    if (!device.is_cpu()) return cuda::allocate(bytes, device);
  } else {
    if (!device.is_cpu()) throw_error("device {}: this build has no CUDA backend; use cpu", device.str());
  }
  void* data = std::aligned_alloc(Storage::alignment, static_cast<std::size_t>(round_up(bytes)));
  if (data == nullptr) {
    throw_failure("out of memory: {} asked for; in use: {}", bytes_text(bytes), memory_now(device).str());
  }
  return data;
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(std::int64_t bytes, Device device) {
  HYSPARSE_CHECK(bytes >= 0, "bytes {}", bytes);
  void* data = allocate_bytes(bytes, device);
  const MemoryPurpose purpose = current_memory_purpose();
  count_memory(device, purpose, bytes);
  return std::shared_ptr<Storage>(new Storage(data, bytes, device, purpose, false));
}

std::shared_ptr<Storage> Storage::allocate_page_locked(std::int64_t bytes) {
  if constexpr (cuda_build) {
    HYSPARSE_CHECK(bytes >= 0, "bytes {}", bytes);
    void* data = cuda::allocate_page_locked(bytes);
    const MemoryPurpose purpose = current_memory_purpose();
    count_memory(Device{}, purpose, bytes);
    return std::shared_ptr<Storage>(new Storage(data, bytes, Device{}, purpose, true));
  }
  return allocate(bytes, Device{});
}

Storage::~Storage() {
  count_memory(device_, purpose_, -bytes_);
  if constexpr (cuda_build) {
    if (page_locked_) {
      cuda::free_page_locked(data_);
      return;
    }
    if (!device_.is_cpu()) {
      cuda::free(data_);
      return;
    }
  }
  std::free(data_);
}

}  // namespace hysparse
