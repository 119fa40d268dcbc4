#include "launch/run_device.h"

#include "core/backend.h"
#include "core/cuda/context.h"
#include "parallel/cuda/device_communicator.h"

namespace hysparse {

int usable_gpus() {
  if constexpr (cuda_build) return cuda::device_count();
  return 0;
}

Device choose_device(const std::string& key, const std::string& choice, DType dtype) {
  const int gpus = usable_gpus();
  if (choice == "cuda" && gpus == 0) {
    throw_error("{}: cuda: {}; must be cpu or auto", key,
                cuda_build ? "this machine has no GPU that can be used" : "this build has no GPU backend");
  }
  const bool cuda = choice == "cuda" || (choice == "auto" && gpus > 0 && dtype != DType::f64);
  if (cuda && dtype == DType::f64) throw_error("{}: cuda: fp64 is for the CPU; must be cpu or auto", key);
  if (!cuda && dtype == DType::bf16) {
    throw_error("--dtype: bf16: is for GPUs, {}; must be fp32 or fp64",
                gpus > 0 ? fmt::format("and {} is cpu", key) : "of which there is none that can be used");
  }
  return {cuda ? DeviceType::cuda : DeviceType::cpu, 0};
}

Stream open_device(Device device, ThreadPool& pool) {
  if constexpr (cuda_build) {
    if (!device.is_cpu()) return cuda::open_stream(device.index, &pool);
  }
  HYSPARSE_CHECK(device.is_cpu(), "device {}", device.str());
  return {device, &pool, nullptr};
}

Stream open_run_stream(const RunConfig& config, const Runtime& runtime, ThreadPool& pool) {
  if (config.train.device != RunConfig::DeviceChoice::cuda) return {Device{}, &pool, nullptr};
  if constexpr (cuda_build) {
    const int gpus = cuda::device_count(), ranks = runtime.local_ranks();
    if (gpus == 0)
      throw_error("train.device: cuda: this machine has no GPU that can be used; must be cpu or auto");
    if (ranks > gpus && !config.parallel.share_gpu) {
      throw_error(
          "train.device: cuda: {} ranks on this host, which has {} GPU{}; start at most {} per host (for "
          "tests, "
          "parallel.share_gpu: true lets ranks share one)",
          ranks, gpus, gpus == 1 ? "" : "s", gpus);
    }
    if (config.parallel.share_gpu) share_gpu_between_ranks(runtime.rank());
    return cuda::open_stream(runtime.local_rank() % gpus, &pool);
  }
  throw_error("train.device: cuda: this build has no GPU backend; must be cpu or auto");
}

void synchronize_device(const Stream& stream) {
  if constexpr (cuda_build) {
    if (!stream.device.is_cpu()) cuda::synchronize(stream);
  }
}

}  // namespace hysparse
