/// A block of memory on one device, freed with its last owner. CPU blocks are 64-byte aligned, so vector loops
/// and reductions run in the same order whatever the allocation; GPU blocks (256-byte aligned) come and go in
/// the order of the compute stream. Every block is counted.
#pragma once

#include <cstdint>
#include <memory>

#include "core/device.h"

namespace hysparse {

class Storage {
 public:
  static constexpr std::int64_t alignment = 64;

  /// Uninitialised. Throws Failure when the memory is not to be had, Error for a device this build lacks.
  static std::shared_ptr<Storage> allocate(std::int64_t bytes, Device device);

  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Storage(void* data, std::int64_t bytes, Device device) : data_(data), bytes_(bytes), device_(device) {}
  void* data_;
  std::int64_t bytes_;
  Device device_;
};

/// Bytes in a device's live blocks now, and the most there have been since the last reset (which sets it to the
/// live count). Of GPUs a process has one.
struct MemoryUse {
  std::int64_t live_bytes;
  std::int64_t peak_bytes;
};
MemoryUse memory_use(Device device = {});
void reset_memory_peak(Device device = {});

/// Tells the C library to keep the memory of freed blocks of up to 32 MiB for the next ones, rather than give
/// it back to the system and fault it in again: a step's tensors have the same sizes each time. For programs,
/// not for libraries: once, before threads start.
void keep_freed_memory();

}  // namespace hysparse
