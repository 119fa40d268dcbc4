/// The process's place in the run: MPI is started and ended here, and the groups of every mesh axis are made
/// here, in one order. The only public face of MPI in the tree.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace hysparse {

/// RAII for MPI_Init_thread(FUNNELED) / MPI_Finalize. Under plain execution without mpirun there is one rank,
/// and MPI is not started at all (no dependence on a working network on a laptop). One per process.
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

  /// A communicator of the given world ranks (all members call, with the same list); all of the world for
  /// Axis::world.
  std::unique_ptr<Communicator> communicator(std::string name, const std::vector<int>& ranks);

  /// Runs `body` on every rank, then agrees: if any rank threw an Error, every rank throws, so that none is
  /// left waiting in a later collective. The problems of the lowest failing rank are thrown on all of them;
  /// identical ones come once. Collective.
  void agree(const std::function<void()>& body);

  /// Ends every rank at once after an unrecoverable failure: prints the message, then MPI_Abort (std::_Exit
  /// alone).
  [[noreturn]] void abort(int status, const std::string& message);

 private:
  int rank_ = 0, world_ = 1, local_rank_ = 0, local_ranks_ = 1;
  bool started_ = false;
};

/// Seconds a collective may wait before it names rank, operation and group and throws Failure
/// (train.collective_timeout_s).
void set_collective_timeout(double seconds);

/// The communicators of one rank's mesh, created eagerly in the order of the members.
struct ProcessGroups {
  ProcessGroups(Runtime& runtime, const Mesh& mesh);

  const Mesh mesh;
  const int rank;
  std::unique_ptr<Communicator> world, pp, dp, cp, tp, edp, ep, etp;

  Communicator& axis(Axis axis) const;
};

}  // namespace hysparse
