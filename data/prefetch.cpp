#include "data/prefetch.h"

#include <chrono>
#include <system_error>
#include <utility>

#include <pthread.h>
#include <signal.h>

#include "core/error.h"

namespace hysparse {
namespace {

/// Signals of the process go to other threads while this lives; threads started now inherit that.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Prefetcher::Prefetcher(Loader& loader, std::int64_t consumed_samples, std::int64_t steps, std::size_t ahead)
    : loader_(loader), ahead_(ahead) {
  HYSPARSE_CHECK(ahead >= 1, "ahead {}", ahead);
  const SignalsBlocked blocked;
  try {
    thread_ = std::thread([this, consumed_samples, steps] { work(consumed_samples, steps); });
  } catch (const std::system_error& e) {
    throw_failure("the thread that loads data cannot be started: {}", e.what());
  }
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Prefetcher::work(std::int64_t consumed_samples, std::int64_t steps) {
  std::exception_ptr error;
  for (std::int64_t i = 0; i < steps; ++i) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stop_ || steps_.size() < ahead_; });
      if (stop_) return;
    }
    StepBatch step;
    try {
      step = loader_.load(consumed_samples + i * loader_.config().global_batch_size);
    } catch (...) {
      error = std::current_exception();
      break;
    }
    {
      const std::lock_guard lock(mutex_);
      steps_.push_back(std::move(step));
    }
    changed_.notify_all();
  }
  {
    const std::lock_guard lock(mutex_);
    error_ = error;
    done_ = true;
  }
  changed_.notify_all();
}

StepBatch Prefetcher::next() {
  const auto start = std::chrono::steady_clock::now();
  StepBatch step;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !steps_.empty() || done_; });
    waited_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (steps_.empty()) {
      if (error_) std::rethrow_exception(error_);
      HYSPARSE_CHECK(false, "no more steps");
    }
    step = std::move(steps_.front());
    steps_.pop_front();
  }
  changed_.notify_all();
  return step;
}

std::size_t Prefetcher::loaded() const {
  const std::lock_guard lock(mutex_);
  return steps_.size();
}

}  // namespace hysparse
