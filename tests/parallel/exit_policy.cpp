// A program that ends in the way its argument names; expect_exit and expect_abort look at its status and what
// it prints.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "core/error.h"
#include "parallel/process_group.h"
#include "parallel/whereabouts.h"

namespace hysparse {
namespace {

constexpr auto for_ever = std::chrono::minutes(10);
constexpr double soon = 0.5, never = 100.0;

/// What the lowest rank reports soon, the others do not.
void let_rank_0_report(int rank) {
  set_collective_timeout(rank == 0 ? soon : never);
}

void stop_this_process() {
  std::raise(SIGSTOP);
}

int body(Runtime& runtime, const std::string& mode) {
  const int rank = runtime.rank();
  const bool last = rank == runtime.world() - 1;
  if (mode == "late_for_group") {
    set_collective_timeout(soon);
    if (rank == 1) std::this_thread::sleep_for(for_ever);
  }
  const ProcessGroups groups(runtime, Mesh({}, runtime.world()));
  const Tensor one = Tensor::from<double>({1.0}, {1});
  const auto wait_for_all = [&] { groups.world->all_reduce(one); };
  at_step(12);

  if (mode == "agreed_error") runtime.agree([] { throw_error("some.key: 7: must be even"); });
  if (mode == "agreed_failure") runtime.agree([] { throw_failure("the disk is full"); });
  if (mode == "agreed_error_of_one") {
    runtime.agree([&] {
      if (last) throw_error("only the last rank saw this");
    });
  }
  if (mode == "agreed_check_of_one") runtime.agree([&] { HYSPARSE_CHECK(!last, "rank {}", rank); });
  if (mode == "lone_error" && last) throw_error("nobody else knows");
  if (mode == "lone_failure" && last) throw_failure("nobody else knows");
  if (mode == "missing_rank") {
    let_rank_0_report(rank);
    at_layer(3);
    if (rank == 1) std::this_thread::sleep_for(for_ever);
  }
  if (mode == "stopped_rank") {
    let_rank_0_report(rank);
    if (rank == 1) stop_this_process();
  }
  if (mode == "two_timeouts") {
    set_collective_timeout(soon);
    if (last) std::this_thread::sleep_for(for_ever);
  }
  if (mode == "failure_in_pending_reduce" || mode == "failure_with_pending_reduce" ||
      mode == "failure_beside_stopped") {
    const Tensor all = Tensor::zeros({100000 * runtime.world()}, DType::f64);
    const Tensor own = Tensor::empty({100000}, DType::f64);
    if (mode == "failure_beside_stopped" && rank == 0) stop_this_process();
    std::unique_ptr<Pending> sum;
    if (!last || mode == "failure_with_pending_reduce") sum = groups.dp->start_reduce_scatter(all, own);
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    if (last) throw_failure("nobody else knows");
    sum->wait();
  }
  wait_for_all();
  if (rank == 0) std::printf("rank 0 is done\n");
  std::fflush(stdout);
  if (mode == "stopped_at_end") {
    let_rank_0_report(rank);
    if (rank == 1) stop_this_process();
  }
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

/// Before MPI is started.
void stop_at_start() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  set_collective_timeout(rank != nullptr && std::string(rank) == "0" ? 3.0 : never);
  if (rank != nullptr && std::string(rank) == "1") stop_this_process();
}

}  // namespace
}  // namespace hysparse

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "unwinding") return hysparse::unwinding(argc, argv);
  if (mode == "stopped_at_start") hysparse::stop_at_start();
  hysparse::Runtime runtime(&argc, &argv);
  return runtime.run([&] { return hysparse::body(runtime, mode); });
}
