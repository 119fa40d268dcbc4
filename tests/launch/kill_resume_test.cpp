// Runs that are killed, told to stop, or that cannot go on: the same command resumes, bitwise as if nothing had
// been, and what ends a run says so once.
#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "core/random.h"
#include "tests/launch/program.h"
#include "tests/launch/run_files.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::milliseconds;

/// mpirun without its pauses (of this many seconds) while it ends the ranks that are left.
const std::vector<std::string> quick_mpirun{"OMPI_MCA_odls_base_sigkill_timeout=0"};

/// Every file below a directory with its time of change and content.
std::map<std::string, std::pair<fs::file_time_type, std::string>> contents(const std::string& directory) {
  std::map<std::string, std::pair<fs::file_time_type, std::string>> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file())
      files[entry.path().string()] = {entry.last_write_time(), read_file(entry.path().string())};
  }
  return files;
}

class KillResume : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_data(directory_, 24000);
    config_ = write_small_config(directory_);
  }

  std::vector<std::string> command(const std::string& run, std::vector<std::string> overrides) const {
    overrides.insert(overrides.begin(), {"train", config_, "run.dir=" + directory_ / run});
    return overrides;
  }

  std::vector<Json> metrics(const std::string& run) const { return read_metrics(directory_ / run); }

  std::int64_t steps_written(const std::string& run) const { return testing::steps_written(directory_ / run); }
  bool saving(const std::string& run) const { return testing::saving(directory_ / run); }
  std::int64_t latest_step(const std::string& run) const { return testing::latest_step(directory_ / run); }

  /// Waits for the end after a rank was killed. Open MPI 4.1 can hang over a rank that dies while it connects
  /// to mpirun; then mpirun is ended, as a user would.
  static int wait_for_end(BackgroundProgram& program) {
    auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(15);
    while (program.running()) {
      if (std::chrono::steady_clock::now() > deadline) {
        program.signal(SIGTERM);
        deadline += std::chrono::seconds(2);
      }
      std::this_thread::sleep_for(milliseconds(2));
    }
    return program.wait();
  }

  WorkDirectory directory_;
  std::string config_;
};

/// The moments that a rank is killed at.
enum class Moment { starting, stepping, saving };

TEST_F(KillResume, TenKillsAndNothingIsLost) {
  const std::vector<std::string> overrides{"parallel.ep=2",      "train.dtype=fp32",  "train.steps=150",
                                           "checkpoint.every=2", "checkpoint.keep=2", "checkpoint.async=true"};
  const ProgramResult unbroken = run_hysparse(2, command("unbroken", overrides));
  ASSERT_EQ(unbroken.status, 0) << unbroken.errors;

  // Others with --gtest_random_seed=N.
  const CounterRandom random(2024 + static_cast<std::uint64_t>(GTEST_FLAG_GET(random_seed)), "kill moments");
  std::uint64_t drawn = 0;
  const auto draw = [&](std::uint64_t limit) { return static_cast<int>(random.below(drawn++, limit)); };
  constexpr std::array moments{Moment::starting, Moment::stepping, Moment::saving,   Moment::saving,
                               Moment::stepping, Moment::saving,   Moment::starting, Moment::saving,
                               Moment::stepping, Moment::saving};
  std::set<std::int64_t> resumed_from;
  for (const Moment moment : moments) {
    const std::string log = directory_ / "killed.log";
    BackgroundProgram program(2, command("killed", overrides), log, quick_mpirun);
    std::vector<int> ranks;
    ASSERT_TRUE(wait_until(program, [&] { return (ranks = program.rank_processes()).size() == 2; }));
    if (moment == Moment::starting) {
      std::this_thread::sleep_for(milliseconds(draw(300)));
    } else {
      // From this round's first step on: what older rounds left is gone by then.
      ASSERT_TRUE(wait_until(program, [&] { return read_file(log).find("\nstep ") != std::string::npos; }));
      const std::int64_t steps = steps_written("killed") + draw(10);
      ASSERT_TRUE(wait_until(program, [&] { return steps_written("killed") >= steps; }));
      if (moment == Moment::saving) {
        ASSERT_TRUE(wait_until(program, [&] { return saving("killed"); }));
        std::this_thread::sleep_for(std::chrono::microseconds(draw(8000)));
      } else {
        std::this_thread::sleep_for(milliseconds(draw(20)));
      }
    }
    kill(ranks[static_cast<std::size_t>(draw(2))], SIGKILL);
    EXPECT_NE(wait_for_end(program), 0) << "was done before it could be killed";
    resumed_from.insert(latest_step("killed"));
  }
  fmt::print("resumed from steps {}\n", fmt::join(resumed_from, ", "));
  EXPECT_GE(resumed_from.size(), 3u) << "the kills hit no different moments";

  const ProgramResult last = run_hysparse(2, command("killed", overrides));
  EXPECT_EQ(last.status, 0) << last.errors;
  expect_same_steps(metrics("killed"), metrics("unbroken"));
  EXPECT_EQ(latest_step("killed"), 150);
}

TEST_F(KillResume, StopSignalsSaveAndTheSameCommandGoesOn) {
  // A constant rate: a run's first steps are those of a shorter one.
  const auto arguments = [&](const std::string& run, int ranks, std::int64_t steps) {
    std::vector<std::string> overrides{"train.dtype=fp32", "train.eval_every=0", "optim.schedule=constant",
                                       "checkpoint.every=50", fmt::format("train.steps={}", steps)};
    if (ranks > 0) overrides.push_back("parallel.ep=2");
    return command(run, overrides);
  };
  struct Case {
    const char* run;
    int ranks;
    int signal;
    bool to_one_rank;  // else to the process started: mpirun's script or the program
    std::int64_t steps = 0;
  };
  std::array cases{Case{"rank", 2, SIGTERM, true}, Case{"mpirun", 2, SIGTERM, false},
                   Case{"alone", 0, SIGTERM, false}, Case{"interrupted", 0, SIGINT, false}};
  std::map<int, std::int64_t> longest;  // by number of ranks
  for (Case& c : cases) {
    {
      BackgroundProgram program(c.ranks, arguments(c.run, c.ranks, 100000), directory_ / "log");
      ASSERT_TRUE(wait_until(program, [&] { return steps_written(c.run) >= 5; })) << c.run;
      if (c.to_one_rank) {
        kill(program.rank_processes().back(), c.signal);
      } else {
        program.signal(c.signal);
      }
      EXPECT_EQ(program.wait(), 0) << c.run << ": " << read_file(directory_ / "log.err");
      EXPECT_EQ(count(read_file(directory_ / "log"), "stopped by a signal"), 1) << c.run;
    }
    const std::int64_t stopped_at = steps_written(c.run);
    EXPECT_EQ(latest_step(c.run), stopped_at) << c.run;
    c.steps = stopped_at + 10;
    longest[c.ranks] = std::max(longest[c.ranks], c.steps);
    const ProgramResult resumed = run_hysparse(c.ranks, arguments(c.run, c.ranks, c.steps));
    EXPECT_EQ(resumed.status, 0) << c.run << ": " << resumed.errors;
    EXPECT_EQ(count(resumed.output, fmt::format("starts from step {} of", stopped_at)), 1) << resumed.output;
  }
  std::map<int, std::vector<Json>> unbroken;
  for (const auto& [ranks, steps] : longest) {
    const std::string run = fmt::format("unbroken{}", ranks);
    ASSERT_EQ(run_hysparse(ranks, arguments(run, ranks, steps)).status, 0);
    unbroken[ranks] = metrics(run);
  }
  for (const Case& c : cases) {
    std::vector<Json> expected = unbroken[c.ranks];
    expected.resize(static_cast<std::size_t>(c.steps));
    expect_same_steps(metrics(c.run), expected);
  }
}

TEST_F(KillResume, ADoneRunIsLeftAsItIs) {
  const std::vector<std::string> arguments = command("done", {"parallel.ep=2", "train.steps=3"});
  ASSERT_EQ(run_hysparse(2, arguments).status, 0);
  const auto before = contents(directory_ / "done");
  const ProgramResult again = run_hysparse(2, arguments);
  EXPECT_EQ(again.status, 0) << again.errors;
  EXPECT_EQ(count(again.output, "already done: 3 of 3 steps"), 1) << again.output;
  const auto after = contents(directory_ / "done");
  for (const auto& [path, file] : after) {
    const auto old = before.find(path);
    EXPECT_TRUE(old != before.end() && old->second == file) << path << " is new or was changed";
  }
  EXPECT_EQ(after.size(), before.size());
}

/// At a learning rate of 1e30 the first update makes every later loss infinite or not a number.
TEST_F(KillResume, ALossThatIsNotFiniteStopsTheRunWithOneMessage) {
  ASSERT_EQ(run_hysparse(2, command("run", {"train.steps=2", "checkpoint.every=1"})).status, 0);
  const ProgramResult result =
      run_hysparse(2, command("run", {"train.steps=6", "checkpoint.every=1", "optim.lr=1e30"}));
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(count(result.errors, "must be finite"), 1) << result.errors;
  EXPECT_EQ(count(result.errors, "step 4: "), 1) << result.errors;
  EXPECT_EQ(latest_step("run"), 3) << "the save under way is lost";
  EXPECT_EQ(steps_written("run"), 3);
}

TEST_F(KillResume, StepsThatAreNotFiniteCanBeSkipped) {
  const ProgramResult result =
      run_hysparse(2, command("run", {"train.steps=4", "optim.lr=1e30", "train.nonfinite=skip"}));
  EXPECT_EQ(result.status, 0) << result.errors;
  const std::vector<Json> steps = metrics("run");
  ASSERT_EQ(steps.size(), 4u);
  EXPECT_FALSE(steps[0].contains("skipped"));
  for (std::size_t i = 1; i < 4; ++i) EXPECT_EQ(steps[i].value("skipped", false), true) << steps[i];
  EXPECT_EQ(latest_step("run"), 4);
}

TEST_F(KillResume, ASaveThatFailsIsSaidOnce) {
  BackgroundProgram program(2, command("run", {"train.steps=100000", "train.eval_every=0"}),
                            directory_ / "log");
  ASSERT_TRUE(wait_until(program, [&] { return steps_written("run") >= 3; }));
  fs::remove_all(directory_ / "run/checkpoints");
  std::ofstream(directory_ / "run/checkpoints") << "in the way";
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 1);
  const std::string errors = read_file(directory_ / "log.err");
  EXPECT_EQ(count(errors, "cannot make the directory"), 1) << errors;
}

TEST_F(KillResume, TheCorrectionBiasComesAndGoesWithAnotherRunOnly) {
  const std::vector<std::string> none{"train.steps=4", "model.moe.bias_update_rate=0"};
  const std::vector<std::string> some{"train.steps=4", "model.moe.bias_update_rate=0.02"};
  ASSERT_EQ(run_hysparse(0, command("biased", {"train.steps=2"})).status, 0);
  ASSERT_EQ(run_hysparse(0, command("unbiased", {"train.steps=2", "model.moe.bias_update_rate=0"})).status, 0);
  const auto before = contents(directory_ / "biased");

  const ProgramResult dropped = run_hysparse(2, command("biased", none));
  EXPECT_EQ(dropped.status, 2);
  EXPECT_EQ(count(dropped.errors, "model.moe.bias_update_rate: 0"), 1) << dropped.errors;
  EXPECT_EQ(count(dropped.errors, "\n"), 1) << dropped.errors;
  EXPECT_TRUE(contents(directory_ / "biased") == before);

  const ProgramResult added = run_hysparse(0, command("unbiased", some));
  EXPECT_EQ(added.status, 2);
  EXPECT_EQ(count(added.errors, "model.moe.bias_update_rate: 0.02"), 1) << added.errors;
  EXPECT_EQ(count(added.errors, "\n"), 1) << added.errors;

  const ProgramResult other_rate = run_hysparse(0, command("biased", some));
  EXPECT_EQ(other_rate.status, 0) << other_rate.errors;
}

}  // namespace
}  // namespace hysparse::testing
