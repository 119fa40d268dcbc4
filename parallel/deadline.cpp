#include "parallel/deadline.h"

#include <chrono>
#include <cstdlib>

#include "parallel/mpi_exchange.h"
#include "parallel/process_group.h"

namespace hysparse::detail {

Deadline::Deadline(double seconds, std::function<void()> expired)
    : thread_([this, seconds, expired = std::move(expired)] {
        std::unique_lock lock(mutex_);
        if (!over_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return done_; })) expired();
      }) {}

Deadline::~Deadline() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  over_.notify_one();
  thread_.join();
}

MeetingDeadline::MeetingDeadline(const std::string& what)
    : deadline_(collective_timeout(), [what, seconds = collective_timeout()] {
        print_problems(timeout_message(what, seconds, "the other ranks"));
        std::this_thread::sleep_for(grace_after_timeout);
        std::_Exit(1);
      }) {}

}  // namespace hysparse::detail
