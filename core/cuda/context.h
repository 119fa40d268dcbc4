/// The GPU of this process: one device, one compute stream. No CUDA header, so that every folder may include
/// it.
#pragma once

#include <cstdint>
#include <string>

#include "core/device.h"

namespace hysparse::cuda {

/// GPUs that this process sees; 0 without a driver.
int device_count();

/// Makes GPU `index` that of this process and returns its compute stream: all kernels run on it, tensors are
/// allocated and freed in its order. Again: the same stream; another index is a bug. Throws Error for a GPU
/// that is not there or cannot run this build. Never closed. `pool`: for what ops do on the host.
Stream open_stream(int index, ThreadPool* pool = nullptr);

/// The stream that open_stream made; a bug before that.
const Stream& current_stream();

/// Waits until the stream is empty. Throws Failure, with CUDA's words, when something on it went wrong.
void synchronize(const Stream& stream);

/// From now on the calling thread calls `progress` again and again while it waits in synchronize, and in copies
/// to the host: what goes on between processes must not stand still meanwhile. Null: nothing.
void set_while_waiting(void (*progress)());
/// Where that is set, waits as synchronize does: before calls in which the driver would. Else returns at once.
void wait_with_progress(const Stream& stream);

/// What kernels choose their launch by.
struct DeviceProperties {
  std::string name;
  int multiprocessors = 0;
  std::int64_t shared_memory_per_block = 0;  ///< with opt-in
  std::int64_t l2_bytes = 0;
  std::int64_t memory_bytes = 0;
};
/// Of the opened GPU.
const DeviceProperties& properties();

}  // namespace hysparse::cuda
