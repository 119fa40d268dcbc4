/// Starts this program again, under mpirun, and waits for it.
#pragma once

#include <string>
#include <vector>

namespace hysparse {

struct ProcessResult {
  int status = -1;         ///< exit status; 128 + signal when killed
  bool timed_out = false;  ///< ended here after the time limit
  double seconds = 0;
  std::string output;  ///< the end of what it wrote to stdout and stderr, together
};

/// `hysparse arguments...` on `ranks` ranks of this machine: alone without mpirun, else
/// `mpirun --oversubscribe -np ranks hysparse arguments...`, also as root. Its output goes to the file `log`.
/// All of it is ended after `limit_s` seconds, and when this process ends. Throws Failure when it cannot be
/// started, and when a stop signal comes (launch/stop_signal.h).
ProcessResult run_ranks(int ranks, const std::vector<std::string>& arguments, const std::string& log,
                        double limit_s);

/// True inside a process that mpirun or srun has started: it cannot start mpirun again.
bool started_by_mpirun();

/// What a program that failed said: its "hysparse: error: " lines without those words, each once; else its last
/// lines, without the frames that mpirun adds; else how those begin. A few lines in any case.
std::vector<std::string> error_lines_of(const std::string& output);

}  // namespace hysparse
