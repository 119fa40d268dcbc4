// What a run does with its checkpoints beside saving them: goes back to the one before a damaged one, keeps a
// second run out of its directory; and what `hysparse checkpoint` says of them.
#include <filesystem>
#include <fstream>
#include <regex>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "checkpoint/checkpoint.h"
#include "tests/launch/program.h"
#include "tests/launch/run_files.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class CheckpointRun : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_data(directory_, 24000);
    config_ = write_small_config(directory_);
  }
  std::vector<std::string> command(std::int64_t steps) const {
    return {"train",
            config_,
            "run.dir=" + run_,
            "checkpoint.every=2",
            "checkpoint.keep=9",
            "train.eval_every=0",
            "optim.schedule=constant",
            fmt::format("train.steps={}", steps)};
  }
  std::string step(std::int64_t number) const { return checkpoints_directory(run_) + "/" + step_name(number); }
  static void flip(const std::string& file) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    const auto middle = static_cast<std::int64_t>(fs::file_size(file)) / 2;
    stream.seekg(middle);
    const auto byte = static_cast<char>(stream.get() ^ 4);
    stream.seekp(middle);
    stream.put(byte);
  }

  WorkDirectory directory_;
  std::string config_;
  std::string run_ = directory_ / "run";
};

TEST_F(CheckpointRun, GoesBackPastDamagedSteps) {
  ASSERT_EQ(run_hysparse(2, command(6)).status, 0);
  const std::vector<Json> expected = read_metrics(run_);
  flip(step(6) + "/shard-00001.h5");  // which rank 0 need not have noticed
  flip(step(4) + "/manifest.json");
  for (const int ranks : {0, 2}) {
    fs::remove_all(directory_ / "again");
    fs::copy(run_, directory_ / "again", fs::copy_options::recursive);
    std::vector<std::string> again = command(6);
    again[2] = "run.dir=" + directory_ / "again";
    const ProgramResult result = run_hysparse(ranks, again);
    EXPECT_EQ(result.status, 0) << result.errors;
    EXPECT_EQ(count(result.output, "warning: "), 3) << result.output;
    EXPECT_EQ(count(result.output, "step-000006/shard-00001.h5: damaged: checksum "), 1) << result.output;
    EXPECT_EQ(count(result.output, "step-000004/manifest.json: damaged"), 1) << result.output;
    EXPECT_EQ(count(result.output, "starts from step 2 of"), 1) << result.output;
    if (ranks == 2) expect_same_steps(read_metrics(directory_ / "again"), expected);
    EXPECT_EQ(run_hysparse(0, {"checkpoint", "verify", directory_ / "again"}).status, 0);  // written anew
  }
}

TEST_F(CheckpointRun, ASecondRunIsKeptOut) {
  BackgroundProgram first(2, command(100000), directory_ / "log");
  ASSERT_TRUE(wait_until(first, [&] { return steps_written(run_) >= 3; }));
  const ProgramResult second = run_hysparse(2, command(100000));
  EXPECT_EQ(second.status, 2);
  EXPECT_TRUE(std::regex_match(
      second.errors, std::regex("hysparse: error: run\\.dir: " + run_ +
                                R"(: another run is using it \(process \d+ on [^ ]+\); stop that one, or give )"
                                R"(this one a directory of its own\n)")))
      << second.errors;
  const std::int64_t steps = steps_written(run_);
  ASSERT_TRUE(wait_until(first, [&] { return steps_written(run_) > steps; }));  // it goes on
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait(), 0);
  EXPECT_FALSE(fs::exists(run_ + "/lock"));
  const ProgramResult third = run_hysparse(2, command(steps_written(run_) + 1));
  EXPECT_EQ(third.status, 0) << third.errors;
}

TEST_F(CheckpointRun, TheCheckpointCommand) {
  ASSERT_EQ(run_hysparse(2, command(4)).status, 0);
  const ProgramResult info = run_hysparse(0, {"checkpoint", "info", run_, "--json"});
  ASSERT_EQ(info.status, 0) << info.errors;
  const Json checkpoints = Json::parse(info.output)["checkpoints"];
  ASSERT_EQ(checkpoints.size(), 2u);
  EXPECT_EQ(checkpoints[1]["step"], 4);
  EXPECT_EQ(checkpoints[1]["latest"], true);
  EXPECT_EQ(checkpoints[0]["latest"], false);
  EXPECT_EQ(checkpoints[1]["mesh"]["dp"], 2);
  EXPECT_EQ(checkpoints[1]["shards"].size(), 2u);
  EXPECT_EQ(checkpoints[1]["bytes"].get<std::int64_t>(),
            static_cast<std::int64_t>(fs::file_size(step(4) + "/shard-00000.h5") +
                                      fs::file_size(step(4) + "/shard-00001.h5")));
  const ProgramResult text = run_hysparse(0, {"checkpoint", "info", step(2)});
  EXPECT_EQ(count(text.output, "step 2, "), 1) << text.output;
  EXPECT_EQ(count(text.output, "in 2 shards"), 1) << text.output;

  EXPECT_EQ(run_hysparse(0, {"checkpoint", "verify", run_}).status, 0);
  flip(step(4) + "/shard-00000.h5");
  fs::remove(step(2) + "/shard-00001.h5");
  const ProgramResult verify = run_hysparse(0, {"checkpoint", "verify", run_, "--json"});
  EXPECT_EQ(verify.status, 1);
  const Json found = Json::parse(verify.output);
  EXPECT_EQ(found["sound"], false);
  EXPECT_EQ(found["checkpoints"].size(), 2u);
  for (const Json& checkpoint : found["checkpoints"]) {
    EXPECT_EQ(checkpoint["sound"], false);
    EXPECT_EQ(checkpoint["problems"].size(), 1u) << checkpoint;
  }
  const ProgramResult one = run_hysparse(0, {"checkpoint", "verify", step(4)});
  EXPECT_EQ(one.status, 1);
  EXPECT_EQ(count(one.output, "DAMAGED"), 1) << one.output;
  const ProgramResult unreadable = run_hysparse(0, {"checkpoint", "info", run_});
  EXPECT_EQ(count(unreadable.output, "not complete: "), 1) << unreadable.output;
}

}  // namespace
}  // namespace hysparse::testing
