// A run of several ranks that is killed again and again, during saves and between them, and whose newest
// checkpoint is damaged now and then: every start finds a checkpoint that is whole, no older than it may be,
// and damage is always found. Ten rounds in the normal test run, two hundred among the slow tests
// (HYSPARSE_CRASH_ROUNDS).
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "core/random.h"
#include "tests/launch/program.h"
#include "tests/launch/run_files.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr std::int64_t save_every = 3;
constexpr int ranks = 3;

int rounds() {
  const char* value = std::getenv("HYSPARSE_CRASH_ROUNDS");
  return value == nullptr ? 10 : std::atoi(value);
}

class CrashMatrix : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_data(directory_, 24000);
    config_ = write_small_config(directory_);
  }

  std::int64_t draw(std::int64_t limit) {
    return static_cast<std::int64_t>(random_.below(drawn_++, static_cast<std::uint64_t>(limit)));
  }

  std::vector<std::string> command(std::int64_t steps) const {
    return {"train",
            config_,
            "run.dir=" + run_,
            "parallel.pp=3",
            "model.num_layers=6",
            "model.hybrid_ratio=1:1",
            "train.eval_every=0",
            "checkpoint.keep=3",
            fmt::format("checkpoint.every={}", save_every),
            fmt::format("train.steps={}", steps)};
  }

  /// Flips a bit of a shard or of the manifest, or cuts a shard, of the newest step; what it did.
  std::string damage(const std::string& step) {
    const std::int64_t which = draw(ranks + 1);
    const std::string file =
        step + "/" + (which < ranks ? shard_name(static_cast<int>(which)) : std::string(manifest_file));
    const auto bytes = static_cast<std::int64_t>(fs::file_size(file)), at = draw(bytes);
    if (draw(3) == 0) {
      fs::resize_file(file, static_cast<std::uintmax_t>(at));
      return fmt::format("{} cut at {}", file, at);
    }
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(at);
    const auto flipped = static_cast<char>(stream.get() ^ (1 << draw(8)));
    stream.seekp(at);
    stream.put(flipped);
    return fmt::format("{} flipped at {}", file, at);
  }

  WorkDirectory directory_;
  std::string config_;
  std::string run_ = directory_ / "run";
  CounterRandom random_{77 + static_cast<std::uint64_t>(GTEST_FLAG_GET(random_seed)), "crashes"};
  std::uint64_t drawn_ = 0;
};

TEST_F(CrashMatrix, WhateverIsKilledOrDamagedARunGoesOn) {
  constexpr std::int64_t endless = 100000;
  std::int64_t expected_start = 0;  // the step that the next start must begin from
  int during_saves = 0, damaged = 0;
  for (int round = 0; round < rounds(); ++round) {
    SCOPED_TRACE(fmt::format("round {}", round));
    const std::string log = directory_ / fmt::format("log-{}", round);
    {
      BackgroundProgram program(ranks, command(endless), log, {"OMPI_MCA_odls_base_sigkill_timeout=0"});
      ASSERT_TRUE(wait_until(program, [&] { return read_file(log).find("\nstep ") != std::string::npos; }))
          << read_file(log + ".err");
      const std::string from = expected_start == 0 ? "starts from initial values"
                                                   : fmt::format("starts from step {} of", expected_start);
      EXPECT_EQ(count(read_file(log), from), 1) << from << ": " << read_file(log);
      const std::int64_t steps = steps_written(run_) + 1 + draw(2 * save_every);
      ASSERT_TRUE(wait_until(program, [&] { return steps_written(run_) >= steps; }));
      if (draw(2) == 0) {
        ASSERT_TRUE(wait_until(program, [&] { return saving(run_); }));
        std::this_thread::sleep_for(std::chrono::microseconds(draw(30000)));
      } else {
        std::this_thread::sleep_for(milliseconds(draw(40)));
      }
      const std::vector<int> processes = program.rank_processes();
      ASSERT_EQ(processes.size(), static_cast<std::size_t>(ranks));
      kill(processes[static_cast<std::size_t>(draw(ranks))], SIGKILL);
      EXPECT_NE(program.wait(), 0);
    }
    // Whole, and not older than it may be: at most `every` steps behind, and while the save of the newest was
    // under way, that of the one before.
    const std::vector<StepState> left = list_checkpoints(run_);
    // Also just before `latest` was to name the new step.
    const bool in_save = saving(run_) || (!left.empty() && !left.back().latest);
    during_saves += in_save ? 1 : 0;
    const std::int64_t written = steps_written(run_), latest = latest_step(run_);
    const std::int64_t newest_begun = (written - 1) / save_every * save_every;
    EXPECT_GE(latest, newest_begun - (in_save ? save_every : 0)) << "of " << written << " steps";
    expected_start = latest;

    if (draw(4) != 0) continue;
    std::vector<StepState> steps = list_checkpoints(run_);
    std::erase_if(steps, [](const StepState& step) { return !step.fault.empty(); });
    if (steps.size() < 2) continue;
    // `latest` names the newest, but for a kill just before it was to.
    const auto named =
        std::find_if(steps.begin(), steps.end(), [](const StepState& step) { return step.latest; });
    ASSERT_NE(named, steps.end());
    const StepState victim = *named;
    steps.erase(named);
    ++damaged;
    const std::string did = damage(victim.directory);
    const ProgramResult verified = run_hysparse(0, {"checkpoint", "verify", run_});
    EXPECT_EQ(verified.status, 1) << did;
    EXPECT_EQ(count(verified.output, "DAMAGED"), 1) << did << ": " << verified.output;
    expected_start = steps.back().step;

    const ProgramResult again = run_hysparse(ranks, command(expected_start + 1));
    EXPECT_EQ(again.status, 0) << did << ": " << again.errors;
    EXPECT_EQ(count(again.output, "warning: using "), 1) << did << ": " << again.output;
    EXPECT_EQ(count(again.output, fmt::format("starts from step {} of", expected_start)), 1)
        << did << ": " << again.output;
    std::vector<std::string> warnings;
    EXPECT_EQ(CheckpointReader(*find_latest(run_, &warnings)).info().step, expected_start + 1) << did;
    expected_start += 1;
    // If the last save was not of the damaged step itself, that one goes: it would be damaged twice.
    if (victim.step != expected_start) fs::remove_all(victim.directory);
  }
  fmt::print("{} rounds, {} kills during saves, {} damaged checkpoints\n", rounds(), during_saves, damaged);
  const std::int64_t target = expected_start + 2 * save_every;
  const ProgramResult last = run_hysparse(ranks, command(target));
  EXPECT_EQ(last.status, 0) << last.errors;
  EXPECT_EQ(latest_step(run_), target);
}

}  // namespace
}  // namespace hysparse::testing
