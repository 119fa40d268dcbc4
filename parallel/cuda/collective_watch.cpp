#include "parallel/cuda/collective_watch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/mpi_exchange.h"
#include "parallel/process_group.h"

namespace hysparse::detail {

/// The thread of the process, while there is something to watch.
class WatchThread {
 public:
  static WatchThread& instance() {
    static WatchThread thread;
    return thread;
  }

  void add(CollectiveWatch* watch) {
    const std::lock_guard lock(mutex_);
    watches_.push_back(watch);
    if (!thread_.joinable()) {
      int device = 0;
      HYSPARSE_CUDA_CHECK(cudaGetDevice(&device));
      stop_ = false;
      thread_ = std::thread([this, device] { work(device); });
    }
  }

  void remove(CollectiveWatch* watch) {
    std::thread ended;
    {
      const std::lock_guard lock(mutex_);
      watches_.erase(std::find(watches_.begin(), watches_.end(), watch));
      if (!watches_.empty()) return;
      stop_ = true;
      ended = std::move(thread_);
    }
    ended.join();
  }

 private:
  void work(int device) {
    constexpr std::chrono::milliseconds pause{100};
    (void)cudaSetDevice(device);
    while (!stop_) {
      std::this_thread::sleep_for(pause);
      const std::lock_guard lock(mutex_);
      for (CollectiveWatch* watch : watches_) {
        std::string problem;
        try {
          problem = watch->problem();
        } catch (const std::exception& e) {  // an error of a kernel before it: the main thread sees it as well
          problem = fmt::format("rank {}: {}", rank_in_messages(), e.what());
        }
        if (problem.empty()) continue;
        print_problems(problem);
        std::this_thread::sleep_for(grace_after_timeout);
        std::_Exit(1);
      }
    }
  }

  std::mutex mutex_;
  std::vector<CollectiveWatch*> watches_;
  std::thread thread_;
  std::atomic<bool> stop_{false};
};

CollectiveWatch::CollectiveWatch(ncclComm_t communicator, std::string group)
    : communicator_(communicator), group_(std::move(group)) {
  WatchThread::instance().add(this);
}

CollectiveWatch::~CollectiveWatch() {
  WatchThread::instance().remove(this);
}

void CollectiveWatch::calling(const char* operation) {
  const std::lock_guard lock(mutex_);
  called_ = operation;
  called_since_ = Clock::now();
}

void CollectiveWatch::enqueued(cudaStream_t stream) {
  constexpr std::size_t most = 64;
  const std::lock_guard lock(mutex_);
  const char* operation = std::exchange(called_, nullptr);
  if (under_way_.size() == most) {  // the last place is for all that come behind: over when the last one is
    under_way_.back().operation = operation;
    under_way_.back().done->record(stream);
    return;
  }
  std::unique_ptr<cuda::Event> done;
  if (unused_.empty()) {
    done = std::make_unique<cuda::Event>();
  } else {
    done = std::move(unused_.front());
    unused_.pop_front();
  }
  done->record(stream);
  if (under_way_.empty()) oldest_since_ = Clock::now();
  under_way_.push_back({operation, std::move(done)});
}

std::string CollectiveWatch::problem() {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &state);
  if (asked != ncclSuccess || (state != ncclSuccess && state != ncclInProgress)) {
    return fmt::format("rank {}: NCCL: group {}: {} ({})", rank_in_messages(), group_,
                       ncclGetErrorString(asked != ncclSuccess ? asked : state), ncclGetLastError(nullptr));
  }
  const std::lock_guard lock(mutex_);
  while (!under_way_.empty() && under_way_.front().done->reached()) {
    unused_.push_back(std::move(under_way_.front().done));
    under_way_.pop_front();
    oldest_since_ = Clock::now();
  }
  const auto too_long = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count() > collective_timeout();
  };
  const char* late = nullptr;
  if (called_ != nullptr && too_long(called_since_)) late = called_;
  if (!under_way_.empty() && too_long(oldest_since_)) late = under_way_.front().operation;
  if (late == nullptr) return {};
  return timeout_message(fmt::format("{} of group {} on the GPU", late, group_), collective_timeout(),
                         "the other ranks");
}

}  // namespace hysparse::detail
