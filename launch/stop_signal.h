/// SIGTERM, SIGINT and SIGUSR1 (the one that mpirun hands on to its ranks) as a request to stop: the trainer
/// finishes its step, saves and exits 0.
#pragma once

namespace hysparse {

/// Installs the handlers; once per process. The second of a kind ends the process at once.
void watch_stop_signals();
bool stop_requested();

}  // namespace hysparse
