#include <cstdio>
#include <exception>

#include "core/storage.h"
#include "launch/cli.h"

int main(int argc, char** argv) {
  using namespace hysparse;
  keep_freed_memory();
  try {
    Runtime runtime(&argc, &argv);
    return run_program(runtime, {argv + 1, argv + argc},
                       {run_train, run_prepare, run_eval, run_export, run_generate});
  } catch (const std::exception& e) {  // MPI did not start
    fmt::print(stderr, "hysparse: error: {}\n", e.what());
    return 1;
  }
}
