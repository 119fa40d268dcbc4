/// The names in RUN/checkpoints, and the renames that make a step appear and go: between the writer and
/// checkpoint.cpp. `checkpoints` is that directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hysparse {

inline constexpr const char* partial_suffix = ".tmp";      ///< a save under way
inline const std::string replaced_suffix = ".replaced";    ///< the old one, while a step is saved again
inline constexpr const char* removed_suffix = ".removed";  ///< being deleted

std::string latest_path(const std::string& checkpoints);

/// Steps that have a directory, complete or not, oldest first.
std::vector<std::int64_t> list_steps(const std::string& checkpoints);
/// The directory of a step: where a save was killed while it replaced the step, the old one's other name.
std::string step_directory(const std::string& checkpoints, std::int64_t step);

/// Gives step-N.tmp, complete and synced, its name, lets `latest` name it, then removes all but the newest keep
/// - 1 of the steps before it. Killed anywhere, find_latest finds this step or the one before. Throws Failure.
void publish_step(const std::string& checkpoints, std::int64_t step, int keep);

/// Deletes a step's directory such that a half-deleted one is no checkpoint. What cannot be deleted now (a file
/// that a reader on a network file system holds) is tried again with the next leftovers.
void remove_step(const std::string& directory);

}  // namespace hysparse
