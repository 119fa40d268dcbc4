#include "parallel/mpi_exchange.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <set>
#include <thread>

#include <sched.h>

#include "parallel/mpi_communicator.h"
#include "parallel/process_group.h"

namespace hysparse {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<double> timeout_seconds{600.0};
std::atomic<bool> abandoned{false};

/// Polls at full speed, then yields between polls, then (when the other side is evidently busy with something
/// long) sleeps between them.
constexpr int polls_before_yield = 64;
constexpr int polls_per_clock = 64;
constexpr double seconds_before_sleep = 1.0;
constexpr auto nap = std::chrono::microseconds(50);

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

void set_collective_timeout(double seconds) {
  HYSPARSE_CHECK(seconds > 0, "seconds {}", seconds);
  timeout_seconds = seconds;
}

bool mpi_abandoned() {
  return abandoned;
}

namespace detail {

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw_failure("rank {}: {}: {}", rank_in_messages(), what, text);
}

void progress_mpi() {
  if (abandoned) return;
  int found = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_SELF, &found, MPI_STATUS_IGNORE);
}

double collective_timeout() {
  return timeout_seconds;
}

std::string timeout_message(const std::string& operation, double seconds, const std::string& waiting) {
  const std::string where = own_whereabouts();
  std::string text = fmt::format(
      "rank {}: {}{}{} has waited {:.1f} s for {}, longer than the timeout of {} s "
      "(train.collective_timeout_s): "
      "a rank is lost, stuck or far behind",
      rank_in_messages(), operation, where.empty() ? "" : " in ", where, seconds, waiting,
      timeout_seconds.load());
  const std::vector<std::string> lines = whereabouts_of_host();
  if (!lines.empty() && first_to_report())
    text += fmt::format("\nthe ranks of this host:\n  {}", fmt::join(lines, "\n  "));
  return text;
}

void print_problems(const std::string& text) {
  std::fflush(stdout);
  fmt::print(stderr, "{}\n", text);
  std::fflush(stderr);
}

MpiGroup::~MpiGroup() {
  if (comm != MPI_COMM_NULL && !abandoned && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm);
}

Exchange::Exchange(std::shared_ptr<MpiGroup> group, const char* operation)
    : group_(std::move(group)), operation_(operation), state_(std::make_unique<State>()) {}

Exchange::~Exchange() {
  if (!state_ || state_->requests.empty()) return;
  abandoned = true;
  static auto* const given_up = new std::vector<std::unique_ptr<State>>;  // reachable for ever, never freed
  given_up->push_back(std::move(state_));
}

MPI_Request* Exchange::add(int peer) {
  state_->peers.push_back(peer);
  return &state_->requests.emplace_back(MPI_REQUEST_NULL);
}

void Exchange::send(int to, const void* data, std::int64_t bytes, int tag) {
  for (std::int64_t begin = 0; begin < bytes; begin += group_->piece_bytes) {
    const auto n = static_cast<int>(std::min(group_->piece_bytes, bytes - begin));
    check_mpi(MPI_Isend(static_cast<const char*>(data) + begin, n, MPI_BYTE, to, tag, group_->comm, add(to)),
              "MPI_Isend");
  }
}

void Exchange::receive(int from, void* data, std::int64_t bytes, int tag) {
  for (std::int64_t begin = 0; begin < bytes; begin += group_->piece_bytes) {
    const auto n = static_cast<int>(std::min(group_->piece_bytes, bytes - begin));
    check_mpi(MPI_Irecv(static_cast<char*>(data) + begin, n, MPI_BYTE, from, tag, group_->comm, add(from)),
              "MPI_Irecv");
  }
}

void Exchange::broadcast(int root, void* data, std::int64_t bytes) {
  for (std::int64_t begin = 0; begin < bytes; begin += group_->piece_bytes) {
    const auto n = static_cast<int>(std::min(group_->piece_bytes, bytes - begin));
    check_mpi(MPI_Ibcast(static_cast<char*>(data) + begin, n, MPI_BYTE, root, group_->comm, add(-1)),
              "MPI_Ibcast");
  }
}

void Exchange::barrier() {
  check_mpi(MPI_Ibarrier(group_->comm, add(-1)), "MPI_Ibarrier");
}

bool Exchange::advance() {
  std::vector<MPI_Request>& requests = state_->requests;
  for (; state_->done < requests.size(); ++state_->done) {
    int complete = 0;
    check_mpi(MPI_Test(&requests[state_->done], &complete, MPI_STATUS_IGNORE), operation_);
    if (!complete) return false;
  }
  return true;
}

void Exchange::clear() {
  state_->requests.clear();
  state_->peers.clear();
  state_->done = 0;
  state_->kept.clear();
}

bool Exchange::test() {
  if (!advance()) return false;
  clear();
  return true;
}

void Exchange::wait() {
  if (!advance()) {
    const InOperation here(ShortName(operation_), group_->short_name);
    poll();
  }
  clear();
}

void Exchange::poll() {
  Clock::time_point progress = Clock::now();
  int idle = 0;
  for (std::size_t done = state_->done; !advance();) {
    if (state_->done > done) {
      done = state_->done;
      progress = Clock::now();
      idle = 0;
      continue;
    }
    if (++idle < polls_before_yield) continue;
    if (idle % polls_per_clock == 0) {
      const double waited = seconds_since(progress);
      if (waited > timeout_seconds) fail(waited);
      if (waited > seconds_before_sleep) {
        std::this_thread::sleep_for(nap);
        idle = polls_per_clock - 1;  // look at the clock, and sleep, at every poll from here on
      }
    }
    sched_yield();
  }
}

void Exchange::fail(double seconds) {
  std::set<int> ranks;
  bool everyone = false;
  for (std::size_t i = state_->done; i < state_->requests.size(); ++i) {
    int complete = 0;
    MPI_Test(&state_->requests[i], &complete, MPI_STATUS_IGNORE);
    if (complete) continue;
    const int peer = state_->peers[i];
    if (peer < 0)
      everyone = true;
    else
      ranks.insert(group_->world_ranks[static_cast<std::size_t>(peer)]);
  }
  const std::string waiting = everyone || ranks.empty() ? std::string("the other ranks")
                                                        : fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s",
                                                                      fmt::join(ranks, ", "));
  throw CollectiveTimeout(timeout_message(fmt::format("{} of group {} (rank {} of {})", operation_,
                                                      group_->name, group_->rank, group_->world_ranks.size()),
                                          seconds, waiting));
}

}  // namespace detail
}  // namespace hysparse
