/// Is somebody watching? Under Open MPI a rank's stdout is a pseudo terminal of mpirun's own, wherever mpirun's
/// output goes, so the question is put to the parent's stdout there.
#pragma once

namespace hysparse {

/// Columns of the terminal that this run's stdout ends in; 0 when it ends elsewhere (a file, a pipe, another
/// host).
int terminal_columns();

}  // namespace hysparse
