/// Saving checkpoints, collectively. Whatever happens while one is saved (a killed process, a full disk), the
/// ones before stay as they were and find_latest finds one of them, or the new one once it is complete.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "parallel/communicator.h"

namespace hysparse {

/// All members are collective over `world` and called on the main thread; `world` outlives the writer. Failures
/// are agreed on: every rank throws Failure with the message of the first rank that failed.
class CheckpointWriter {
 public:
  /// Makes RUN/checkpoints and removes what killed saves left there. `keep` >= 1: complete steps to keep.
  CheckpointWriter(std::string run_directory, int keep, Communicator& world);
  /// Waits for the background thread. A save that was not finished leaves no checkpoint.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Finishes a save in flight, then saves info.step. Not `async`: returns when the checkpoint is complete.
  /// `async`: copies the pieces and returns; a thread writes, and poll() or finish() completes the checkpoint.
  /// A step that is there already is replaced. A rank may have no pieces.
  void save(const CheckpointInfo& info, std::vector<Piece> pieces, bool async);

  /// To be called at step boundaries: if all ranks have written their shard, completes the checkpoint
  /// (manifest, rename, latest, retention). Does not wait. True when no save is in flight any more. Costs
  /// nothing when none is.
  bool poll();
  /// Waits for the save in flight, if any, and completes it.
  void finish();

  bool in_flight() const { return job_ != nullptr; }

 private:
  struct Job;
  void complete();
  /// Removes a failed save (rank 0).
  void discard(const std::string& partial);
  void commit(const CheckpointInfo& info, const std::vector<std::string>& reports);

  std::string run_directory_;
  std::string directory_;  // RUN/checkpoints
  int keep_;
  Communicator& world_;
  std::unique_ptr<Job> job_;
};

}  // namespace hysparse
