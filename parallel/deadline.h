/// A limit for calls that cannot be given up, such as MPI_Comm_create_group. Private to parallel/.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace hysparse::detail {

/// Calls `expired` from a thread of its own, once, unless it is destroyed within `seconds`. `expired` must not
/// throw and must not touch MPI; as a rule it ends the process.
class Deadline {
 public:
  Deadline(double seconds, std::function<void()> expired);
  ~Deadline();
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  std::thread thread_;
};

/// For one call of MPI in which all ranks of a group meet: after the collective timeout, says that this rank's
/// `what` ("creation of group tp") has waited too long and what the ranks of this host are at, and ends the
/// process with status 1, upon which mpirun ends the others.
class MeetingDeadline {
 public:
  explicit MeetingDeadline(const std::string& what);

 private:
  Deadline deadline_;
};

}  // namespace hysparse::detail
