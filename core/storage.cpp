#include "core/storage.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include <malloc.h>

#include "core/error.h"

namespace hysparse {
namespace {

std::atomic<std::int64_t> live_bytes{0};
std::atomic<std::int64_t> peak_bytes{0};

std::int64_t round_up(std::int64_t bytes) {
  return std::max((bytes + Storage::alignment - 1) / Storage::alignment * Storage::alignment,
                  Storage::alignment);
}

void count(std::int64_t delta) {
  const std::int64_t now = live_bytes.fetch_add(delta) + delta;
  std::int64_t peak = peak_bytes.load();
  while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(std::int64_t bytes, Device device) {
  if (!device.is_cpu()) throw_error("device {}: this build has no CUDA backend; use cpu", device.str());
  HYSPARSE_CHECK(bytes >= 0, "bytes {}", bytes);
  void* data = std::aligned_alloc(alignment, static_cast<std::size_t>(round_up(bytes)));
  if (data == nullptr) {
    throw_failure("out of memory: {} bytes asked for, {} in use by tensors", bytes, live_bytes.load());
  }
  count(bytes);
  return std::shared_ptr<Storage>(new Storage(data, bytes, device));
}

Storage::~Storage() {
  std::free(data_);
  count(-bytes_);
}

MemoryUse memory_use() {
  return {live_bytes.load(), peak_bytes.load()};
}
void reset_memory_peak() {
  peak_bytes = live_bytes.load();
}

void keep_freed_memory() {
  constexpr int largest_kept = 32 << 20;  // the C library's own limit
  mallopt(M_MMAP_THRESHOLD, largest_kept);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_ARENA_MAX, 1);
}

}  // namespace hysparse
