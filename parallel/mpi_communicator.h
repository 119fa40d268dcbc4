/// A communicator over MPI for host tensors. Private to parallel/: others get theirs from Runtime and
/// ProcessGroups. MPI types stay in the .cpp files and mpi_exchange.h.
///
/// Data moves by MPI_Isend / MPI_Irecv between each pair of ranks, all at once; broadcast and barrier are MPI's
/// own. The sums are ours, so that their order is the same under any MPI:
///   reduce_scatter  each rank gets the others' copies of its part, in chunks through two scratch buffers (one
///   is summed
///                   while the other fills), and adds them in order of rank
///   all_reduce      reduce_scatter and all_gather; below small_bytes an all_gather that every rank sums for
///   itself
/// Each rank sends and receives (size - 1) / size of the tensor, as a ring does, in size - 1 messages: made for
/// groups of up to a few hundred ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace hysparse {

struct MpiTuning {
  std::int64_t piece_bytes = std::int64_t{1} << 30;    ///< longest message (MPI counts are ints)
  std::int64_t scratch_bytes = std::int64_t{8} << 20;  ///< of a reduction, both buffers together
  std::int64_t small_bytes = std::int64_t{32} << 10;   ///< all_reduce up to this size goes in one exchange
};

/// Of these world ranks, this one among them; all of them call, with the same list. MPI must be running.
std::unique_ptr<Communicator> mpi_communicator(std::string name, const std::vector<int>& ranks,
                                               const MpiTuning& tuning = {});

/// True once a transfer was given up in this process (timeout, error, unwinding): MPI can then not be ended in
/// order, and communicators are not freed.
bool mpi_abandoned();

}  // namespace hysparse
