/// What a rank does of a save beside its main thread: no MPI.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace hysparse {

/// Where a save takes place.
struct SavePlace {
  std::string checkpoints;  ///< RUN/checkpoints
  std::int64_t step;
  int rank, ranks, keep;

  std::string partial() const;  ///< the directory that is being filled
};

/// What a tensor takes of the memory that copy_into fills.
std::int64_t room_of(const Tensor& data);
/// Copies the pieces' elements, one after the other, to `memory` (bytes, on the host), and lets them be those.
void copy_into(const Tensor& memory, std::vector<Piece>& pieces);

/// Writes this rank's shard and, beside it, the report of what it holds; on rank 0 it then waits for every
/// rank's report and completes the checkpoint. Starts with its construction.
class SaveJob {
 public:
  enum class State : std::uint8_t { running, done, failed };

  /// The elements are first copied to `copy`, if that is defined. The step's partial directory must be there.
  SaveJob(SavePlace place, CheckpointInfo info, std::vector<Piece> pieces, Tensor copy);
  /// Gives up what is not done.
  ~SaveJob();
  SaveJob(const SaveJob&) = delete;
  SaveJob& operator=(const SaveJob&) = delete;

  State state() const { return state_; }
  /// Of a failed one.
  const std::string& message() const { return message_; }
  const SavePlace& place() const { return place_; }
  void await_copy();
  /// Ends it soon: as failed, unless it is done.
  void give_up();

 private:
  void run() noexcept;
  void write_shard();
  void wait_for_reports();
  void commit();
  void check_not_given_up() const;

  SavePlace place_;
  CheckpointInfo info_;
  std::vector<Piece> pieces_;
  Tensor copy_;
  std::string message_;
  std::atomic<State> state_{State::running};
  std::atomic<bool> given_up_{false};
  std::atomic<bool> copied_{false};
  std::thread thread_;
};

}  // namespace hysparse
