/// Loads the batches of the next steps on a thread of its own while a step is under way.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "data/loader.h"

namespace hysparse {

class Prefetcher {
 public:
  /// Steps that wait loaded at most; one more may be under way.
  static constexpr std::size_t default_ahead = 2;

  /// Starts with the step before which `consumed_samples` windows were used; `steps` of them follow. `loader`
  /// and what it reads belong to the thread until the prefetcher is gone. The thread makes no MPI call. Throws
  /// Failure when no thread can be had.
  Prefetcher(Loader& loader, std::int64_t consumed_samples, std::int64_t steps,
             std::size_t ahead = default_ahead);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The batches of the next step, at most `steps` times: waits for them. What loading them threw is thrown
  /// here, in the step that would have used them; then again in every later call.
  StepBatch next();

  /// Seconds that next() has waited.
  double waited_seconds() const { return waited_seconds_; }
  /// Steps that lie loaded now.
  std::size_t loaded() const;

 private:
  void work(std::int64_t consumed_samples, std::int64_t steps);

  Loader& loader_;
  std::size_t ahead_;
  double waited_seconds_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<StepBatch> steps_;
  std::exception_ptr error_;  // after the steps that are loaded
  bool done_ = false;         // no more will come
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace hysparse
