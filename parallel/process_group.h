/// The process's place in the run: MPI is started and ended here, and the groups of every mesh axis are made
/// here, in one order. The only public face of MPI in the tree.
///
/// How a run ends, whatever happens (Runtime::run does this for a whole program). What all ranks agreed on
/// (agree throws AgreedError or AgreedFailure on each) ends every rank in order: rank 0 prints it, all return 2
/// or 1. Anything else may have struck one rank alone, while the others wait in a collective: that rank prints
/// its message and aborts them all. A collective that waits too long (set_collective_timeout) does the same,
/// after a second in which other ranks whose wait is over can print theirs; so does a group whose creation, or
/// a start or end of MPI that takes too long.
///
/// The Runtime must outlive the try block that catches: destroyed while an exception passes, or after a
/// transfer was given up (a timeout), it leaves MPI as it is, since MPI_Finalize would wait for ranks that do
/// not come; mpirun then ends the others when this process exits.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace hysparse {

/// The user's mistake, thrown on every rank by Runtime::agree.
class AgreedError : public Error {
 public:
  using Error::Error;
};

/// A failure or broken invariant of some rank, thrown on every rank by Runtime::agree.
class AgreedFailure : public Failure {
 public:
  using Failure::Failure;
};

/// Whether every rank throws this one.
bool is_agreed(const std::exception& e);

/// A transfer that made no progress for longer than the collective timeout; thrown on the ranks that waited.
class CollectiveTimeout : public Failure {
 public:
  using Failure::Failure;
};

namespace detail {
class Board;
}

/// RAII for MPI_Init_thread(FUNNELED) / MPI_Finalize. Under plain execution without mpirun there is one rank,
/// and MPI is not started at all (no dependence on a working network on a laptop). One per process;
/// communicators go before it.
class Runtime {
 public:
  Runtime(int* argc, char*** argv);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  int rank() const { return rank_; }
  int world() const { return world_; }
  int local_rank() const { return local_rank_; }    ///< among the ranks of this host
  int local_ranks() const { return local_ranks_; }  ///< ranks on this host

  /// A communicator of the given world ranks (all members call, with the same list); a local one for a list of
  /// one.
  std::unique_ptr<Communicator> communicator(std::string name, const std::vector<int>& ranks);

  /// Runs `body` on every rank, then agrees: if it threw on any rank, every rank throws, so that none is left
  /// waiting in a later collective. What the lowest failing rank threw counts: its problems as AgreedError if
  /// it was an Error, else its message as AgreedFailure (naming the rank, if there are several). Collective;
  /// `body` itself must not contain collectives, unless it fails on all ranks alike.
  void agree(const std::function<void()>& body);

  /// Runs the program and returns its exit status: what `body` returns; 2 for an Error, 1 for anything else
  /// thrown. Prints problems to stderr, one per line; does not return when this rank alone failed and there are
  /// others (see above).
  int run(const std::function<int()>& body);

  /// Ends every rank at once after an unrecoverable failure: prints the message, then MPI_Abort (std::_Exit
  /// alone, and when MPI_Abort does not end this process either).
  [[noreturn]] void abort(int status, const std::string& message);

 private:
  [[noreturn]] void end_all(int status);
  int end_agreed(int status, const std::string& message);

  int rank_ = 0, world_ = 1, local_rank_ = 0, local_ranks_ = 1;
  bool started_ = false;
  int exceptions_at_start_ = 0;
  std::unique_ptr<detail::Board> board_;     // null without MPI
  std::unique_ptr<Communicator> agreement_;  // of the world, for agree alone; null for one rank
};

/// Seconds without progress after which an operation throws CollectiveTimeout, whose message names rank,
/// operation, group, step, layer (parallel/whereabouts.h), the ranks it waits for, and what every rank of this
/// host is at (train.collective_timeout_s); 600 until set. Holds for the creation of groups too.
void set_collective_timeout(double seconds);

/// The communicators of one rank's mesh, created eagerly in the order of the members.
struct ProcessGroups {
  /// With a GPU (opened: core/cuda/context.h) the groups that move a model's tensors take device tensors as
  /// well as host ones; dp, cp, stage and world carry figures, on the host.
  ProcessGroups(Runtime& runtime, const Mesh& mesh, Device device = {});

  const Mesh mesh;
  const int rank;
  std::unique_ptr<Communicator> world, pp, dp, cp, tp, dp_cp, edp, ep, etp, experts /* ep_etp */, stage;

  Communicator& axis(Axis axis) const;
};

}  // namespace hysparse
