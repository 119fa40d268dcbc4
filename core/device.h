/// Where memory lies and work runs. No CUDA header: a stream's native handle is opaque outside core/cuda.
#pragma once

#include <cstdint>
#include <string>

namespace hysparse {

class ThreadPool;

enum class DeviceType : std::uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  bool is_cpu() const { return type == DeviceType::cpu; }
  std::string str() const;
  friend bool operator==(const Device&, const Device&) = default;
};

/// An ordered queue of work on one device, passed to every kernel. A non-owning value. On the CPU work runs at
/// once, on the threads of `pool`; elsewhere `native` is the backend's stream.
struct Stream {
  Device device;
  ThreadPool* pool = nullptr;
  void* native = nullptr;
};

}  // namespace hysparse
