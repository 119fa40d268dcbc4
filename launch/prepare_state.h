/// Where a `prepare` stands, in a small file beside its output: after a kill the next run goes on from there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/documents.h"
#include "data/token_writer.h"
#include "launch/prepare.h"

namespace hysparse {

struct PrepareState {
  std::string job;          ///< hash of all that decides the result; another job's state is of no use
  ReadPosition next;        ///< where reading goes on
  std::int64_t line = 0;    ///< lines read of that file
  std::uint64_t draws = 0;  ///< of the split
  std::int64_t read_bytes = 0;
  PrepareReport report;
  TokenWriterState train, valid;
};

/// "OUTPUT.partial-state"
std::string prepare_state_path(const std::string& output);

/// Replaces the file; on disk when it returns. Throws Failure.
void save_prepare_state(const std::string& path, const PrepareState& state);

/// Nothing when there is none, when it is damaged, or of another job. `files`: of the input.
std::optional<PrepareState> load_prepare_state(const std::string& path, const std::string& job,
                                               std::int64_t files);

}  // namespace hysparse
