/// A block of memory on one device, freed with its last owner. CPU blocks are 64-byte aligned, so vector loops
/// and reductions run in the same order whatever the allocation; GPU blocks (256-byte aligned) come and go in
/// the order of the compute stream. Every block is counted (core/memory.h).
#pragma once

#include <cstdint>
#include <memory>

#include "core/device.h"
#include "core/memory.h"

namespace hysparse {

class Storage {
 public:
  static constexpr std::int64_t alignment = 64;

  /// Uninitialised. Throws Failure when the memory is not to be had, Error for a device this build lacks.
  static std::shared_ptr<Storage> allocate(std::int64_t bytes, Device device);
  /// The same on the host, page-locked where the build has CUDA.
  static std::shared_ptr<Storage> allocate_page_locked(std::int64_t bytes);

  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Storage(void* data, std::int64_t bytes, Device device, MemoryPurpose purpose, bool page_locked)
      : data_(data), bytes_(bytes), device_(device), purpose_(purpose), page_locked_(page_locked) {}
  void* data_;
  std::int64_t bytes_;
  Device device_;
  MemoryPurpose purpose_;
  bool page_locked_;
};

}  // namespace hysparse
