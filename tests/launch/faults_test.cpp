// Ranks that are killed, that hang, that are told to stop and that throw, at random steps of training on every
// kind of layout: what the run says, how it ends, and that nothing is lost (docs/faults.md).
#include <fstream>
#include <regex>

#include <fmt/format.h>
#include <signal.h>

#include "tests/launch/fault_run.h"
#include "tests/launch/run_files.h"

namespace hysparse::testing {
namespace {

using Clock = std::chrono::steady_clock;

/// More steps than are ever made.
const std::vector<std::string> endless{"train.steps=1000", "checkpoint.keep=2"};

TEST_F(Faults, ARankThatIsKilled) {
  for (int i = 0; i < rounds(); ++i) {
    const Round r = round(i, 0);
    SCOPED_TRACE(fmt::format("round {}, {}", i, r.layout->name));
    BackgroundProgram program(r.layout->ranks, command(*r.layout, r.run, endless), r.log);
    ASSERT_TRUE(wait_for_moment(program, r)) << read_file(r.log + ".err");
    const int rank = draw_rank(r);
    kill(ranks_of(program).at(static_cast<std::size_t>(rank)), SIGKILL);
    const Ending ending = wait_for_end(program, r, Clock::now());
    EXPECT_EQ(ending.status, 128 + SIGKILL);
    // Nobody but mpirun can say it.
    EXPECT_TRUE(std::regex_search(ending.errors,
                                  std::regex(fmt::format("process rank {} with .* signal 9 .Killed", rank))))
        << rank << ": " << ending.errors;
    EXPECT_EQ(count(ending.errors, "hysparse: error"), 0) << ending.errors;
    expect_nothing_lost(r);
  }
}

/// What the ranks of a run that hangs say: the message of one that waits, and what each is at.
void expect_timeout_messages(const Ending& ending, int ranks, int stopped, int process, double timeout,
                             std::int64_t step) {
  std::smatch found;
  const std::string first = first_message(ending.errors);
  const std::regex message(fmt::format(
      R"(rank (\d+): hysparse: error: (\w+) of group (\w+) \(rank \d+ of \d+\) in step (\d+)(, layer (\d+))? )"
      R"(has waited (\d+\.\d) s for (ranks? \d+(, \d+)*|the other ranks), longer than the timeout of {} s )"
      R"(\(train\.collective_timeout_s\): a rank is lost, stuck or far behind)",
      timeout));
  ASSERT_TRUE(std::regex_match(first, found, message)) << ending.errors;
  EXPECT_NE(std::stoi(found[1]), stopped);
  EXPECT_GE(std::stoll(found[4]), step);
  EXPECT_LE(std::stoll(found[4]), step + 2);
  if (found[3] == "world" || found[3] == "agreement") {
    EXPECT_FALSE(found[5].matched) << "no layer waits for the world: " << first;
  }
  const std::size_t board = ending.errors.find("\nthe ranks of this host:\n");
  ASSERT_NE(board, std::string::npos) << ending.errors;
  EXPECT_EQ(count(ending.errors, "the ranks of this host"), 1) << ending.errors;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::string state = rank == stopped ? fmt::format(R"( \(process {} is stopped\))", process) : "";
    const std::regex line(fmt::format(
        R"(\n  rank {}: step \d+, (layer \d+, )?(computing|in [\w ]+ of group \w+) for \d+\.\d s{}\n)", rank,
        state));
    EXPECT_TRUE(std::regex_search(ending.errors, line)) << "rank " << rank << ": " << ending.errors;
  }
}

TEST_F(Faults, ARankThatHangs) {
  constexpr double timeout = 4;
  for (int i = 0; i < rounds(); ++i) {
    const Round r = round(i, 1);
    SCOPED_TRACE(fmt::format("round {}, {}", i, r.layout->name));
    std::vector<std::string> overrides = endless;
    overrides.push_back(fmt::format("train.collective_timeout_s={}", timeout));
    BackgroundProgram program(r.layout->ranks, command(*r.layout, r.run, overrides), r.log);
    ASSERT_TRUE(wait_for_moment(program, r)) << read_file(r.log + ".err");
    const int rank = draw_rank(r), process = ranks_of(program).at(static_cast<std::size_t>(rank));
    kill(process, SIGSTOP);
    const auto fault = Clock::now();
    const std::int64_t step = steps_written(r.run);
    const Ending ending = wait_for_end(program, r, fault, timeout + seconds_to_end);
    EXPECT_EQ(ending.status, 1);
    expect_timeout_messages(ending, r.layout->ranks, rank, process, timeout, step);
    expect_nothing_lost(r);
  }
}

TEST_F(Faults, ARunThatIsToldToStop) {
  for (int i = 0; i < rounds(); ++i) {
    const Round r = round(i, 2);
    SCOPED_TRACE(fmt::format("round {}, {}", i, r.layout->name));
    BackgroundProgram program(r.layout->ranks, command(*r.layout, r.run, endless), r.log);
    ASSERT_TRUE(wait_for_moment(program, r)) << read_file(r.log + ".err");
    if (i % 2 == 0) {
      program.signal(SIGTERM);  // scripts/mpirun hands it on to all
    } else {
      kill(ranks_of(program).at(static_cast<std::size_t>(draw_rank(r))), SIGTERM);
    }
    const Ending ending = wait_for_end(program, r, Clock::now());
    EXPECT_EQ(ending.status, 0) << ending.errors;
    EXPECT_EQ(count(ending.output, "stopped by a signal; the checkpoint is saved"), 1) << ending.output;
    EXPECT_EQ(count(ending.errors, "hysparse: error"), 0) << ending.errors;
    EXPECT_EQ(latest_step(r.run), steps_written(r.run));
    expect_nothing_lost(r);
  }
}

TEST_F(Faults, ARankThatThrows) {
  train_with({"train.dtype=fp64"});  // the shim counts calls of cblas_dgemm
  const std::string preload = "LD_PRELOAD=" HYSPARSE_FAULT_SHIM;
  for (int i = 0; i < rounds(); ++i) {
    const Round r = round(i, 4);
    SCOPED_TRACE(fmt::format("round {}, {}", i, r.layout->name));
    const std::string counts = directory_ / fmt::format("calls-{}", r.layout->name);
    unbroken(*r.layout, unbroken_steps, {preload, "HYSPARSE_FAULT_COUNTS=" + counts});
    const int rank = draw_rank(r);
    std::int64_t calls = 0;
    std::ifstream(fmt::format("{}.{}", counts, rank)) >> calls;
    ASSERT_GT(calls, 1000) << "rank " << rank << " does not get to the shim";
    const std::int64_t call = 1 + draw(calls * last_fault_step / unbroken_steps);
    BackgroundProgram program(
        r.layout->ranks, command(*r.layout, r.run, endless), r.log,
        {preload, fmt::format("HYSPARSE_FAULT_RANK={}", rank), fmt::format("HYSPARSE_FAULT_CALL={}", call)});
    wait_until(program, [&] { return count(read_file(r.log + ".err"), "\n") > 0; });
    const Ending ending = wait_for_end(program, r, Clock::now());
    EXPECT_EQ(ending.status, 1);
    EXPECT_EQ(first_message(ending.errors),
              fmt::format("rank {}: hysparse: error: call {} of cblas_dgemm was made to fail", rank, call));
    EXPECT_EQ(count(ending.errors, "hysparse: error"), 1) << ending.errors;
    expect_nothing_lost(r);
  }
}

}  // namespace
}  // namespace hysparse::testing
