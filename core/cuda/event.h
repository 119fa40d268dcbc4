/// A point in a stream.
#pragma once

#include <cuda_runtime_api.h>

#include "core/cuda/error.h"

namespace hysparse::cuda {

/// An event that lives as long as this.
class Event {
 public:
  Event() { HYSPARSE_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) { HYSPARSE_CUDA_CHECK(cudaEventRecord(event_, stream)); }
  /// What `stream` gets from now on waits until this is reached.
  void hold(cudaStream_t stream) const { HYSPARSE_CUDA_CHECK(cudaStreamWaitEvent(stream, event_)); }
  bool reached() const {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) {
      (void)cudaGetLastError();  // the next kernel's launch would take it for its own
      return false;
    }
    HYSPARSE_CUDA_CHECK(status);
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace hysparse::cuda
