#include <cstdio>
#include <exception>
#include <string_view>

#include "core/storage.h"
#include "launch/cli.h"
#include "launch/stop_signal.h"

int main(int argc, char** argv) {
  using namespace hysparse;
  keep_freed_memory();
  // Before MPI starts: mpirun can hang over a rank that a signal ends there.
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "train" || command == "verify") watch_stop_signals();
  try {
    Runtime runtime(&argc, &argv);
    return run_program(runtime, {argv + 1, argv + argc},
                       {.train = run_train,
                        .prepare = run_prepare,
                        .data_inspect = run_data_inspect,
                        .eval = run_eval,
                        .export_model = run_export,
                        .import_model = run_import,
                        .generate = run_generate,
                        .verify = run_verify,
                        .verify_layout = run_verify_layout,
                        .bench = run_bench,
                        .checkpoint = run_checkpoint,
                        .tokenizer_train = run_tokenizer_train});
  } catch (const std::exception& e) {  // MPI did not start
    fmt::print(stderr, "hysparse: error: {}\n", e.what());
    return 1;
  }
}
