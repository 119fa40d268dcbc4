/// One run at a time in a run directory: RUN/lock, held with flock(2), so that the system lets go of it however
/// the process ends.
#pragma once

#include <memory>
#include <string>

namespace hysparse {

class RunLock {
 public:
  /// Waits a few seconds for a run that is just ending. Throws Error, naming run.dir and the process that holds
  /// it, when another one goes on. Holds nothing where the file cannot be made (a full disk will be noticed
  /// soon enough) and on a file system without such locks.
  explicit RunLock(const std::string& run_directory);
  /// Removes the file.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// None when the directory is not there or nothing can be written in it: then no run is using it.
  static std::unique_ptr<RunLock> of_existing(const std::string& run_directory);

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace hysparse
