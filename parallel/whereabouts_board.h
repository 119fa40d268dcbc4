/// The memory behind parallel/whereabouts.h. Private to parallel/ (names MPI types).
#pragma once

#include <mpi.h>

namespace hysparse::detail {

/// A place for each rank of `host` in memory that they share; this rank's updates go there while the board
/// lives. Without a board each process has a place of its own. One per process; collective over `host`, at its
/// end too (unless transfers were given up or an exception passes: then it stays for the others to see).
class Board {
 public:
  explicit Board(MPI_Comm host);
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

 private:
  MPI_Win window_ = MPI_WIN_NULL;
};

}  // namespace hysparse::detail
