/// GoogleTest under mpirun: hysparse_mpi_test_support brings the main, which starts MPI, insists on the number
/// of ranks that --ranks=N asks for, and runs every case on every rank. Rank 0 reports; the others print
/// failures only. A case that leaves the ranks out of step ends in a timeout.
#pragma once

#include <gtest/gtest.h>

#include "parallel/process_group.h"

namespace hysparse::testing {

/// The one of this process.
Runtime& runtime();

/// Seconds a collective may wait in tests.
inline constexpr double test_timeout = 60.0;

}  // namespace hysparse::testing
