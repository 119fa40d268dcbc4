// `hysparse verify` as a program: what it says and returns when layouts are equal, and when a rank dies, hangs,
// or nothing can be compared.
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/launch/program.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const std::string configs = HYSPARSE_SOURCE_DIR "/configs/verify/";

/// One layer, two micro-batches on two ranks: steps of a few milliseconds, that do not carry rounding on.
const std::vector<std::string> tiny = {"model.layer_types=[full_attention]", "model.vocab_size=64",
                                       "train.global_batch_size=4", "optim.lr=0"};

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

ProgramResult verify(const std::string& config, std::vector<std::string> arguments, int ranks = 0) {
  arguments.insert(arguments.begin(), {"verify", config});
  return run_hysparse(ranks, arguments, {}, 300);
}

TEST(Verify, EqualLayoutsAsJson) {
  const ProgramResult run = verify(configs + "hysparse.yaml", {"--layouts", "dp=2,ep=2;tp=2,sp,recompute=layer",
                                                               "--np", "2", "--steps", "3", "--json"});
  ASSERT_EQ(run.status, 0) << run.output << run.errors;
  const Json json = Json::parse(run.output);
  EXPECT_EQ(json["passed"], true);
  EXPECT_EQ(json["dtype"], "fp64");
  ASSERT_EQ(json["reference"]["steps"].size(), 3u);
  for (const Json& step : json["reference"]["steps"])
    EXPECT_GT(step["grad_norm"], 0.5) << "clipping does not bite";
  ASSERT_EQ(json["layouts"].size(), 2u);
  const Json& experts = json["layouts"][0];
  EXPECT_EQ(experts["name"], "dp=2,ep=2");
  EXPECT_EQ(experts["ranks"], 2);
  EXPECT_LE(experts["loss"], 1e-10);
  EXPECT_LE(experts["gradient"]["difference"], 1e-9);
  EXPECT_GT(experts["traffic"]["ep_etp"]["all_to_all"]["bytes"], 0);
  EXPECT_EQ(json["layouts"][1]["recompute"], "layer");
  EXPECT_GT(json["layouts"][1]["traffic"]["tp"]["reduce_scatter"]["calls"], 0);
  EXPECT_NE(run.errors.find("[2/2] tp=2,sp,recompute=layer"), std::string::npos) << run.errors;
}

TEST(Verify, OnTheConfigsOwnDataInFloat32) {
  const WorkDirectory directory;
  prepare_data(directory, 24000);
  const std::string config = write_small_config(directory);
  const ProgramResult run = verify(config, {"--layouts", "dp=2;tp=2"});
  EXPECT_EQ(run.status, 0) << run.output << run.errors;
  EXPECT_NE(run.output.find("later"), std::string::npos) << run.output;
  EXPECT_NE(run.output.find("2 layouts: equal to one rank\n"), std::string::npos) << run.output;
  EXPECT_FALSE(fs::exists(directory / "run")) << "a proof leaves nothing in run.dir";
}

TEST(Verify, WhatTheUserGotWrong) {
  const ProgramResult layout = verify(configs + "dense.yaml", {"--layouts", "tp=3;dp=2,ep=2"});
  EXPECT_EQ(layout.status, 2);
  EXPECT_NE(
      layout.errors.find("hysparse: error: --layouts: tp=3: parallel.tp: 3: must divide model.num_heads (4)"),
      std::string::npos)
      << layout.errors;
  EXPECT_NE(layout.errors.find("--layouts: dp=2,ep=2: parallel.ep: 2: "), std::string::npos) << layout.errors;
  const ProgramResult data = verify(configs + "dense.yaml", {"data.train=/no/such.h5"});
  EXPECT_EQ(data.status, 2);
  EXPECT_NE(data.errors.find("hysparse: error: data.train: /no/such.h5: "), std::string::npos) << data.errors;
  const ProgramResult nested = verify(configs + "dense.yaml", {}, 2);
  EXPECT_EQ(nested.status, 2);
  EXPECT_NE(nested.errors.find("verify starts mpirun itself"), std::string::npos) << nested.errors;
}

/// Runs two layouts of two ranks, sends a signal to a rank of the first, and lets verify come to its end.
struct Struck {
  int status = 0;
  std::string output;
  bool rank_is_gone = false;
  bool nothing_left = false;  // in the temporary directory
};

Struck strike(int signal, bool verify_itself, const std::string& timeout) {
  const WorkDirectory directory;
  fs::create_directory(directory / "tmp");
  std::vector<std::string> arguments{
      "verify", configs + "dense.yaml", "--layouts", "dp=2;tp=2", "--steps", "1000", "--timeout", timeout};
  arguments.insert(arguments.end(), tiny.begin(), tiny.end());
  BackgroundProgram program(0, arguments, directory / "log", {"TMPDIR=" + directory / "tmp"});
  std::vector<int> processes;  // verify itself, and two ranks
  while (processes.size() < 3 && program.running()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    processes = program.rank_processes();
  }
  EXPECT_EQ(processes.size(), 3u) << read_file(directory / "log") << read_file(directory / "log.err");
  if (processes.size() < 3) return {};
  // Most often they train by now, and on the fastest machine they are far from done: 1000 steps of more than
  // 0.4 ms.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  kill(verify_itself ? processes[0] : processes[2], signal);
  Struck struck;
  struck.status = program.wait();
  for (int i = 0; i < 100 && !struck.rank_is_gone; ++i) {  // mpirun may end a moment before its ranks
    struck.rank_is_gone = kill(processes[2], 0) != 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  struck.output = read_file(directory / "log") + read_file(directory / "log.err");
  struck.nothing_left = true;
  for (const auto& entry : fs::directory_iterator(directory / "tmp"))
    struck.nothing_left =
        struck.nothing_left && !entry.path().filename().string().starts_with("hysparse-verify");
  return struck;
}

TEST(Verify, AKilledRankFailsItsLayoutOnly) {
  const Struck struck = strike(SIGKILL, false, "120");
  EXPECT_EQ(struck.status, 1);
  EXPECT_NE(struck.output.find("1 of 2 layouts FAIL: dp=2\n"), std::string::npos) << struck.output;
  EXPECT_TRUE(struck.rank_is_gone);
  EXPECT_TRUE(struck.nothing_left);
}

TEST(Verify, AHangingRankFailsItsLayoutOnly) {
  const Struck struck = strike(SIGSTOP, false, "45");
  EXPECT_EQ(struck.status, 1);
  EXPECT_NE(struck.output.find("1 of 2 layouts FAIL: dp=2\n"), std::string::npos) << struck.output;
  EXPECT_TRUE(struck.rank_is_gone);
  EXPECT_TRUE(struck.nothing_left);
}

TEST(Verify, ASignalEndsEverything) {
  const Struck struck = strike(SIGTERM, true, "120");
  EXPECT_EQ(struck.status, 1);
  EXPECT_NE(struck.output.find("hysparse: error: stopped by a signal"), std::string::npos) << struck.output;
  EXPECT_TRUE(struck.rank_is_gone);
  EXPECT_TRUE(struck.nothing_left);
}

}  // namespace
}  // namespace hysparse::testing
