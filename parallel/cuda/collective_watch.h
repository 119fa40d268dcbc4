/// Looks after collectives on the GPU, which nobody waits for: the host enqueues them and goes on, and when one
/// never ends it is stuck somewhere else. Private to parallel/.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "core/cuda/event.h"

namespace hysparse::detail {

/// One communicator's collectives. A thread of the process polls all of them: NCCL's own error of a
/// communicator (a peer died, a link failed), a collective that is not over when the collective timeout has
/// passed since those before it were, and a call of NCCL that has not returned by then (the first ones connect
/// the ranks). Each ends the process with a message that names rank, operation, group, step and layer, and what
/// the ranks of this host are at; mpirun then ends the others.
class CollectiveWatch {
 public:
  CollectiveWatch(ncclComm_t communicator, std::string group);
  ~CollectiveWatch();
  CollectiveWatch(const CollectiveWatch&) = delete;
  CollectiveWatch& operator=(const CollectiveWatch&) = delete;

  /// NCCL is about to be called for `operation`, a literal.
  void calling(const char* operation);
  /// The operation of the last calling() was enqueued on `stream`.
  void enqueued(cudaStream_t stream);

 private:
  friend class WatchThread;
  using Clock = std::chrono::steady_clock;
  struct Entry {
    const char* operation;
    std::unique_ptr<cuda::Event> done;
  };
  /// What is wrong; empty: nothing.
  std::string problem();

  ncclComm_t communicator_;
  std::string group_;
  std::mutex mutex_;
  std::deque<Entry> under_way_;                      // in order
  std::deque<std::unique_ptr<cuda::Event>> unused_;  // events to be used again
  Clock::time_point oldest_since_{};                 // the first of under_way_ is the oldest since then
  const char* called_ = nullptr;                     // what NCCL is enqueuing; null: nothing
  Clock::time_point called_since_{};
};

}  // namespace hysparse::detail
