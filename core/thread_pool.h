/// Threads of our own (rather than OpenMP's), so that the thread sanitizer sees them and results depend on
/// nothing but the number of threads: work is split statically, part i always runs the same range.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "core/memory.h"

namespace hysparse {

class ThreadPool {
 public:
  /// `threads` >= 1 counts the calling thread: a pool of one starts none.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  /// Runs body(begin, end) over a static split of [0, count) into at most threads() ranges of at least `grain`
  /// items. Returns when all are done; the first exception of a part is rethrown. Not reentrant: body must not
  /// call it.
  void parallel_for(std::int64_t count, std::int64_t grain,
                    const std::function<void(std::int64_t, std::int64_t)>& body);

  /// Runs body(task) for each task in [0, count), handed out one by one as threads come free: for tasks of
  /// unequal size that write to separate places (the result must not depend on which thread ran a task).
  void parallel_tasks(std::int64_t count, const std::function<void(std::int64_t)>& body);

 private:
  void run(int parts, const std::function<void(int)>& part);
  void work(int index);
  void run_part(int part);

  int threads_;
  std::vector<std::thread> workers_;
  std::atomic<std::uint32_t> generation_{0};  // bumped to start a job
  std::atomic<int> parts_{0};                 // parts of the job; set before the bump
  const std::function<void(int)>* part_ = nullptr;
  MemoryPurpose purpose_ = MemoryPurpose::other;  // of what the caller allocates
  std::atomic<int> pending_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::exception_ptr> exceptions_;
};

/// Threads a rank should use: HYSPARSE_NUM_THREADS if set, else cores available to the process / ranks on this
/// host, at least 1. Throws Error when the variable is not a positive integer.
int default_thread_count(int local_ranks);

}  // namespace hysparse
