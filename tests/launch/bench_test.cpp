// `hysparse bench` as a program: the rows each benchmark promises, as JSON, and what it refuses.
#include "launch/bench.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "tests/launch/program.h"

namespace hysparse::testing {
namespace {

using Json = nlohmann::json;

const std::vector<std::string> small = {"model.num_layers=3",
                                        "model.hybrid_ratio=1:1",
                                        "model.hidden_size=64",
                                        "model.num_heads=4",
                                        "model.head_dim=16",
                                        "model.moe.num_experts=4",
                                        "model.moe.intermediate_size=32",
                                        "model.intermediate_size=64",
                                        "train.seq_len=64",
                                        "train.global_batch_size=4",
                                        "--steps=2",
                                        "--warmup=1",
                                        "--json"};

Json bench(const std::string& what, int ranks = 0) {
  std::vector<std::string> arguments = {"bench", what};
  arguments.insert(arguments.end(), small.begin(), small.end());
  const ProgramResult run = run_hysparse(ranks, arguments);
  EXPECT_EQ(run.status, 0) << run.output << run.errors;
  return Json::parse(run.output);
}

std::vector<std::string> names(const Json& result) {
  std::vector<std::string> names;
  for (const Json& row : result["rows"]) {
    names.push_back(row["name"]);
    EXPECT_EQ(row["runs"], 2);
    EXPECT_GT(row["ms"], 0);
    EXPECT_LE(row["ms_least"], row["ms"]);
    EXPECT_GE(row["ms_most"], row["ms"]);
  }
  return names;
}

TEST(Bench, AStepReportsRateAndMemoryThatAddsUp) {
  const Json result = bench("step");
  EXPECT_EQ(names(result), (std::vector<std::string>{"step"}));
  const double tokens = 4 * 64;
  EXPECT_NEAR(result["tokens_per_s"], tokens / result["rows"][0]["ms"].get<double>() * 1e3, 1e-6);
  std::int64_t sum = 0;
  for (const auto& [purpose, bytes] : result["memory"].items()) sum += bytes.get<std::int64_t>();
  EXPECT_EQ(sum, result["memory_bytes"]);
  EXPECT_GT(result["memory"]["activations"], 0);
  EXPECT_EQ(result["memory"]["optimizer"], 2 * result["memory"]["parameters"].get<std::int64_t>());
}

TEST(Bench, EveryKindOfAttentionForwardAndBackward) {
  const Json result = bench("attention");
  EXPECT_EQ(names(result), (std::vector<std::string>{"full forward", "full backward", "full, choosing forward",
                                                     "full, choosing backward", "sparse forward",
                                                     "sparse backward", "window forward", "window backward"}));
}

TEST(Bench, ExpertsOverTwoRanks) {
  EXPECT_EQ(names(bench("moe", 2)), (std::vector<std::string>{"layer forward", "layer backward"}));
}

TEST(Bench, CollectivesOverTwoRanks) {
  const Json result = bench("comm", 2);
  EXPECT_EQ(names(result).size(), 16u);
  for (const Json& row : result["rows"]) EXPECT_GT(row["gb_per_s"], 0);
}

TEST(Bench, WhatTheUserGotWrong) {
  const ProgramResult what = run_hysparse(0, {"bench", "fast"});
  EXPECT_EQ(what.status, 2);
  EXPECT_EQ(what.errors, "hysparse: error: bench: WHAT: fast: must be one of step, attention, moe, comm\n");
  const ProgramResult alone = run_hysparse(0, {"bench", "comm"});
  EXPECT_EQ(alone.status, 2);
  EXPECT_NE(alone.errors.find("start it under mpirun -np N"), std::string::npos) << alone.errors;
  const ProgramResult ranks = run_hysparse(3, {"bench", "moe", "model.moe.num_experts=16"});
  EXPECT_EQ(ranks.status, 2);
  EXPECT_NE(ranks.errors.find("model.moe.num_experts: 16: must be a multiple of the 3 ranks"),
            std::string::npos)
      << ranks.errors;
}

TEST(Bench, MedianOfTimes) {
  EXPECT_EQ((BenchTimes{{3, 1, 2}}).median(), 2);
  EXPECT_EQ((BenchTimes{{4, 1, 2, 3}}).median(), 2.5);
  EXPECT_EQ((BenchTimes{{4, 1, 2, 3}}).least(), 1);
  EXPECT_EQ((BenchTimes{{4, 1, 2, 3}}).most(), 4);
}

}  // namespace
}  // namespace hysparse::testing
