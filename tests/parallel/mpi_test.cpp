#include "tests/parallel/mpi_test.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace hysparse::testing {
namespace {

Runtime* the_runtime = nullptr;

/// Prints failures, with the rank, and nothing else.
class FailurePrinter : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", the_runtime->rank(),
                 result.file_name() ? result.file_name() : "?", result.line_number(), result.summary());
  }
};

/// N of --ranks=N; 0 when it is not given.
int ranks_asked_for(int argc, char** argv) {
  constexpr std::string_view option = "--ranks=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.substr(0, option.size()) == option) return std::atoi(argv[i] + option.size());
  }
  return 0;
}

int run_tests(int argc, char** argv) {
  if (the_runtime->world() != ranks_asked_for(argc, argv)) {
    std::fprintf(stderr, "%d ranks, --ranks=%d\n", the_runtime->world(), ranks_asked_for(argc, argv));
    return 1;
  }
  set_collective_timeout(test_timeout);
  ::testing::InitGoogleTest(&argc, argv);
  if (the_runtime->rank() != 0) {
    ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter);
  }
  return RUN_ALL_TESTS();
}

}  // namespace

Runtime& runtime() {
  return *the_runtime;
}

}  // namespace hysparse::testing

int main(int argc, char** argv) {
  hysparse::Runtime runtime(&argc, &argv);
  hysparse::testing::the_runtime = &runtime;
  return runtime.run([&] { return hysparse::testing::run_tests(argc, argv); });
}
