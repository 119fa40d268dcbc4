// A program that ends in the way its argument names; expect_exit looks at its status and what it prints.
#include <cstdio>
#include <string>
#include <thread>

#include "core/error.h"
#include "parallel/process_group.h"

namespace hysparse {
namespace {

int body(Runtime& runtime, const std::string& mode) {
  const ProcessGroups groups(runtime, Mesh({}, runtime.world()));
  const bool last = runtime.rank() == runtime.world() - 1;
  const Tensor one = Tensor::from<double>({1.0}, {1});
  const auto wait_for_all = [&] { groups.world->all_reduce(one); };

  if (mode == "agreed_error") runtime.agree([] { throw_error("some.key: 7: must be even"); });
  if (mode == "agreed_failure") runtime.agree([] { throw_failure("the disk is full"); });
  if (mode == "agreed_error_of_one") {
    runtime.agree([&] {
      if (last) throw_error("only the last rank saw this");
    });
  }
  if (mode == "agreed_check_of_one") runtime.agree([&] { HYSPARSE_CHECK(!last, "rank {}", runtime.rank()); });
  if (mode == "lone_error" && last) throw_error("nobody else knows");
  if (mode == "lone_failure" && last) throw_failure("nobody else knows");
  if (mode == "missing_rank") {
    set_collective_timeout(0.5);
    set_collective_context("step 12");
    if (runtime.rank() == 1) std::this_thread::sleep_for(std::chrono::minutes(10));
    if (runtime.rank() > 1) set_collective_timeout(100.0);  // rank 0 is the one to report
  }
  wait_for_all();
  if (runtime.rank() == 0) std::printf("rank 0 is done\n");
  return 0;
}

/// A Runtime destroyed while an exception of one rank passes: must not wait for the others.
int unwinding(int argc, char** argv) {
  try {
    Runtime runtime(&argc, &argv);
    const ProcessGroups groups(runtime, Mesh({}, runtime.world()));
    if (runtime.rank() == 1) throw_failure("rank 1 alone");
    groups.world->barrier();
    return 0;
  } catch (const Failure&) {
    std::fprintf(stderr, "caught outside\n");
    return 3;
  }
}

}  // namespace
}  // namespace hysparse

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "unwinding") return hysparse::unwinding(argc, argv);
  hysparse::Runtime runtime(&argc, &argv);
  return runtime.run([&] { return hysparse::body(runtime, mode); });
}
