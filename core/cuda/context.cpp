#include "core/cuda/context.h"

#include <cstdint>
#include <optional>
#include <thread>

#include <sched.h>

#include "core/cuda/error.h"
#include "core/cuda/event.h"

namespace hysparse::cuda {
namespace {

struct Context {
  Stream stream;
  DeviceProperties properties;
  Event* reached = nullptr;  // for synchronize; never destroyed: at exit the driver may be gone
  void (*progress)() = nullptr;
  std::thread::id progress_thread;
};

std::optional<Context>& context() {
  static std::optional<Context> opened;
  return opened;
}

DeviceProperties read_properties(int index) {
  cudaDeviceProp p{};
  HYSPARSE_CUDA_CHECK(cudaGetDeviceProperties(&p, index));
  // Code for an architecture with an "a" runs on exactly that one.
  if (p.major != 9 || p.minor != 0) {
    throw_error("device cuda:{}: {} has compute capability {}.{}; this build is for 9.0 (Hopper)", index,
                p.name, p.major, p.minor);
  }
  return {p.name, p.multiProcessorCount, static_cast<std::int64_t>(p.sharedMemPerBlockOptin), p.l2CacheSize,
          static_cast<std::int64_t>(p.totalGlobalMem)};
}

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();  // no driver, no device: not an error of what comes next
  return 0;
}

Stream open_stream(int index, ThreadPool* pool) {
  std::optional<Context>& opened = context();
  if (opened) {
    HYSPARSE_CHECK(opened->stream.device.index == index, "GPU {} is open, asked for {}",
                   opened->stream.device.index, index);
    if (pool != nullptr) opened->stream.pool = pool;
    return opened->stream;
  }
  const int count = device_count();
  if (index < 0 || index >= count) throw_error("device cuda:{}: this machine has {} GPUs", index, count);
  const DeviceProperties found = read_properties(index);
  HYSPARSE_CUDA_CHECK(cudaSetDevice(index));
  cudaStream_t native = nullptr;
  HYSPARSE_CUDA_CHECK(cudaStreamCreateWithFlags(&native, cudaStreamNonBlocking));
  // Freed blocks stay with the process: a step's tensors have the same sizes each time.
  cudaMemPool_t memory = nullptr;
  HYSPARSE_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&memory, index));
  std::uint64_t keep_all = UINT64_MAX;
  HYSPARSE_CUDA_CHECK(cudaMemPoolSetAttribute(memory, cudaMemPoolAttrReleaseThreshold, &keep_all));
  opened = Context{{{DeviceType::cuda, index}, pool, native}, found, new Event};
  return opened->stream;
}

const Stream& current_stream() {
  HYSPARSE_CHECK(context(), "no GPU is open");
  return context()->stream;
}

void synchronize(const Stream& stream) {
  wait_with_progress(stream);
  HYSPARSE_CUDA_CHECK(cudaStreamSynchronize(static_cast<cudaStream_t>(stream.native)));
}

void wait_with_progress(const Stream& stream) {
  HYSPARSE_CHECK(context(), "no GPU is open");
  const Context& opened = *context();
  if (opened.progress == nullptr || opened.progress_thread != std::this_thread::get_id()) return;
  opened.reached->record(static_cast<cudaStream_t>(stream.native));
  while (!opened.reached->reached()) {
    opened.progress();
    sched_yield();
  }
}

void set_while_waiting(void (*progress)()) {
  HYSPARSE_CHECK(context(), "no GPU is open");
  context()->progress = progress;
  context()->progress_thread = std::this_thread::get_id();
}

const DeviceProperties& properties() {
  HYSPARSE_CHECK(context(), "no GPU is open");
  return context()->properties;
}

}  // namespace hysparse::cuda
