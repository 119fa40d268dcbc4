#include "core/memory.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include "core/memory_counter.h"

namespace hysparse {
namespace {

thread_local MemoryPurpose current = MemoryPurpose::other;

struct Counter {
  std::mutex mutex;
  MemoryTable live, at_peak;
  std::int64_t live_bytes = 0, peak_bytes = 0;
};

Counter& counter(Device device) {
  static Counter of_cpu, of_cuda;
  return device.is_cpu() ? of_cpu : of_cuda;
}

}  // namespace

const char* memory_purpose_name(MemoryPurpose purpose) {
  static constexpr std::array<const char*, memory_purposes> names = {
      "parameters", "gradients", "optimizer", "activations", "backward", "communication", "data", "other"};
  return names[static_cast<std::size_t>(purpose)];
}

MemoryScope::MemoryScope(MemoryPurpose purpose) : before_(current) {
  current = purpose;
}
MemoryScope::~MemoryScope() {
  current = before_;
}
MemoryPurpose current_memory_purpose() {
  return current;
}

std::int64_t MemoryTable::total() const {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

std::string MemoryTable::str() const {
  std::vector<std::size_t> order(memory_purposes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return bytes[a] > bytes[b]; });
  std::vector<std::string> parts;
  for (const std::size_t i : order) {
    if (bytes[i] == 0) continue;
    parts.push_back(
        fmt::format("{} {}", memory_purpose_name(static_cast<MemoryPurpose>(i)), bytes_text(bytes[i])));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

void count_memory(Device device, MemoryPurpose purpose, std::int64_t delta) {
  Counter& c = counter(device);
  const std::lock_guard lock(c.mutex);
  c.live.bytes[static_cast<std::size_t>(purpose)] += delta;
  c.live_bytes += delta;
  if (c.live_bytes <= c.peak_bytes) return;
  c.peak_bytes = c.live_bytes;
  c.at_peak = c.live;
}

MemoryUse memory_use(Device device) {
  Counter& c = counter(device);
  const std::lock_guard lock(c.mutex);
  return {c.live_bytes, c.peak_bytes};
}

void reset_memory_peak(Device device) {
  Counter& c = counter(device);
  const std::lock_guard lock(c.mutex);
  c.peak_bytes = c.live_bytes;
  c.at_peak = c.live;
}

MemoryTable memory_now(Device device) {
  Counter& c = counter(device);
  const std::lock_guard lock(c.mutex);
  return c.live;
}

MemoryTable memory_at_peak(Device device) {
  Counter& c = counter(device);
  const std::lock_guard lock(c.mutex);
  return c.at_peak;
}

std::string bytes_text(std::int64_t bytes) {
  constexpr double kib = 1024, mib = kib * 1024, gib = mib * 1024;
  const auto value = static_cast<double>(bytes);
  if (value < kib) return fmt::format("{} B", bytes);
  if (value < mib) return fmt::format("{:.0f} KiB", value / kib);
  if (value < gib) return fmt::format("{:.0f} MiB", value / mib);
  return fmt::format("{:.1f} GiB", value / gib);
}

void keep_freed_memory() {
  constexpr int largest_kept = 32 << 20;  // the C library's own limit
  mallopt(M_MMAP_THRESHOLD, largest_kept);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_ARENA_MAX, 1);
}

}  // namespace hysparse
