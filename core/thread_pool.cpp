#include "core/thread_pool.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <string>
#include <utility>

#include <sched.h>

#include "core/error.h"

namespace hysparse {
namespace {

/// Polls before a thread goes to sleep: a step's kernels follow each other within microseconds.
constexpr int spin_polls = 2000;

void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

template <class T>
void wait_until_not(const std::atomic<T>& value, T old) {
  for (int i = 0; i < spin_polls; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_processor();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads), exceptions_(static_cast<std::size_t>(threads)) {
  HYSPARSE_CHECK(threads >= 1, "threads {}", threads);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& w : workers_) w.join();
}

void ThreadPool::run_part(int part) {
  const MemoryScope scope(purpose_);
  try {
    (*part_)(part);
  } catch (...) {
    exceptions_[static_cast<std::size_t>(part)] = std::current_exception();
  }
}

void ThreadPool::work(int index) {
  std::uint32_t seen = 0;
  while (true) {
    wait_until_not(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    if (index < parts_.load(std::memory_order_relaxed)) run_part(index);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

void ThreadPool::run(int parts, const std::function<void(int)>& part) {
  if (parts == 1) return part(0);
  part_ = &part;
  purpose_ = current_memory_purpose();
  parts_.store(parts, std::memory_order_relaxed);
  pending_.store(threads_ - 1, std::memory_order_relaxed);  // every worker answers, with or without a part
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  run_part(0);
  for (int left = pending_.load(std::memory_order_acquire); left != 0;
       left = pending_.load(std::memory_order_acquire)) {
    wait_until_not(pending_, left);
  }
  std::exception_ptr first;
  for (std::exception_ptr& e : exceptions_) {
    const std::exception_ptr thrown = std::exchange(e, nullptr);
    if (!first) first = thrown;
  }
  if (first) std::rethrow_exception(first);
}

void ThreadPool::parallel_for(std::int64_t count, std::int64_t grain,
                              const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  const std::int64_t most = (count + std::max<std::int64_t>(grain, 1) - 1) / std::max<std::int64_t>(grain, 1);
  const auto parts = static_cast<int>(std::min<std::int64_t>(threads_, most));
  if (parts == 1) return body(0, count);
  run(parts, [&](int part) { body(count * part / parts, count * (part + 1) / parts); });
}

void ThreadPool::parallel_tasks(std::int64_t count, const std::function<void(std::int64_t)>& body) {
  if (count <= 0) return;
  std::atomic<std::int64_t> next{0};
  const auto parts = static_cast<int>(std::min<std::int64_t>(threads_, count));
  run(parts, [&](int) {
    for (std::int64_t task = next.fetch_add(1); task < count; task = next.fetch_add(1)) body(task);
  });
}

int default_thread_count(int local_ranks) {
  if (const char* text = std::getenv("HYSPARSE_NUM_THREADS")) {
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (end == text || *end != '\0' || n < 1 || n > 4096) {
      throw_error("HYSPARSE_NUM_THREADS={}: must be an integer from 1 to 4096", text);
    }
    return static_cast<int>(n);
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::max(1, cores / std::max(1, local_ranks));
}

}  // namespace hysparse
