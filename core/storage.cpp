#include "core/storage.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include <malloc.h>

#include "core/backend.h"
#include "core/cuda/memory.h"
#include "core/error.h"

namespace hysparse {
namespace {

struct Counter {
  std::atomic<std::int64_t> live_bytes{0};
  std::atomic<std::int64_t> peak_bytes{0};

  void add(std::int64_t delta) {
    const std::int64_t now = live_bytes.fetch_add(delta) + delta;
    std::int64_t peak = peak_bytes.load();
    while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
    }
  }
};

Counter& counter(Device device) {
  static Counter of_cpu, of_cuda;
  return device.is_cpu() ? of_cpu : of_cuda;
}

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
    throw_failure("out of memory: {} bytes asked for, {} in use by tensors", bytes,
                  memory_use(device).live_bytes);
  }
  return data;
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(std::int64_t bytes, Device device) {
  HYSPARSE_CHECK(bytes >= 0, "bytes {}", bytes);
  void* data = allocate_bytes(bytes, device);
  counter(device).add(bytes);
  return std::shared_ptr<Storage>(new Storage(data, bytes, device));
}

Storage::~Storage() {
  counter(device_).add(-bytes_);
  if constexpr (cuda_build) {
    if (!device_.is_cpu()) {
      cuda::free(data_);
      return;
    }
  }
  std::free(data_);
}

MemoryUse memory_use(Device device) {
  const Counter& c = counter(device);
  return {c.live_bytes.load(), c.peak_bytes.load()};
}
void reset_memory_peak(Device device) {
  Counter& c = counter(device);
  c.peak_bytes = c.live_bytes.load();
}

void keep_freed_memory() {
  constexpr int largest_kept = 32 << 20;  // the C library's own limit
  mallopt(M_MMAP_THRESHOLD, largest_kept);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_ARENA_MAX, 1);
}

}  // namespace hysparse
