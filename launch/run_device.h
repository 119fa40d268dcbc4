/// The device that a run computes on.
#pragma once

#include "core/thread_pool.h"
#include "launch/run_config.h"
#include "parallel/process_group.h"

namespace hysparse {

/// GPUs that this process could use; 0 in a build without CUDA.
int usable_gpus();

/// The device that `choice` (auto, cpu or cuda, of the option `key`) means for computing in `dtype`: auto is
/// the GPU where there is one and it knows the dtype. Throws Error, naming key and value, for one that is not
/// there or does not compute in that dtype.
Device choose_device(const std::string& key, const std::string& choice, DType dtype);

/// The stream of a device that this process has to itself.
Stream open_device(Device device, ThreadPool& pool);

/// The stream to compute on: the CPU's threads, or the GPU of this rank's place on its host. Throws Error
/// naming train.device when there are fewer GPUs than ranks of the host, unless parallel.share_gpu lets them
/// share.
Stream open_run_stream(const RunConfig& config, const Runtime& runtime, ThreadPool& pool);

/// Waits until the device has done all that was started.
void synchronize_device(const Stream& stream);

}  // namespace hysparse
