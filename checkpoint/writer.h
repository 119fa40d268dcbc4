/// Saving checkpoints, collectively. Whatever happens while one is saved (a killed process, a full disk), the
/// ones before stay as they were and find_latest finds one of them, or the new one once it is complete.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/save_job.h"
#include "parallel/communicator.h"

namespace hysparse {

/// All members are collective over `world` (except those that say so) and called on the main thread; `world`
/// outlives the writer. Failures are agreed on: every rank throws Failure with the message of the first rank
/// that failed.
///
/// A thread of each rank writes its shard; rank 0's then waits for the others' and completes the checkpoint.
/// They call no MPI: the ranks tell each other by files in the step's directory, and agree on the main thread.
class CheckpointWriter {
 public:
  /// Makes RUN/checkpoints, which all ranks must see, and removes what killed saves left there. `keep` >= 1:
  /// complete steps to keep.
  CheckpointWriter(std::string run_directory, int keep, Communicator& world);
  /// Gives up a save that was not finished, which leaves no checkpoint unless it was complete.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Makes the memory on the host that asynchronous saves of these pieces copy to (page-locked if one lies on a
  /// GPU), so that the first save need not. It stays until the writer goes. Not collective.
  void reserve_copy(const std::vector<Piece>& pieces);

  /// Finishes a save in flight, then saves info.step. Not `async`: returns when the checkpoint is complete.
  /// `async`: returns at once; pieces on the host must not change until await_copy() has returned, those on a
  /// GPU are copied before save returns (on the host they need to be when not `async`). A step that is there
  /// already is replaced. A rank may have no pieces.
  void save(const CheckpointInfo& info, std::vector<Piece> pieces, bool async);

  /// Waits until the save in flight, if any, has its own copy of the pieces. Not collective.
  void await_copy();

  /// To be called at step boundaries: whether no save is in flight any more. Does not wait. Costs nothing when
  /// none is.
  bool poll();
  /// Waits for the save in flight, if any.
  void finish();

  bool in_flight() const { return job_ != nullptr; }
  /// Seconds that the last save() waited for the one before it.
  double seconds_waited() const { return seconds_waited_; }

 private:
  /// What poll does when a rank has failed: gives up on all, removes the parts, throws. `own`: this rank's
  /// state.
  [[noreturn]] void fail(SaveJob::State own);

  std::string run_directory_;
  std::string directory_;  // RUN/checkpoints
  int keep_;
  Communicator& world_;
  Tensor copy_;  // bytes; undefined until there is something to copy
  double seconds_waited_ = 0;
  std::unique_ptr<SaveJob> job_;
};

}  // namespace hysparse
