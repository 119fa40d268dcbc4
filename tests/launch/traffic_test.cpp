// What `hysparse verify --json` counts in a step is what step_traffic (and docs/mesh.md, tests/model) says:
// calls and bytes of every operation of every group, on layouts of every kind.
#include "model/traffic.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "launch/config.h"
#include "launch/model_layout.h"
#include "launch/verify_layouts.h"
#include "tests/launch/program.h"

namespace hysparse::testing {
namespace {

using Json = nlohmann::json;
/// "group operation" -> "calls, bytes": what a failed comparison prints well.
using Table = std::map<std::string, std::string>;

std::string cell(std::int64_t calls, std::int64_t bytes) {
  return fmt::format("{} calls, {} bytes", calls, bytes);
}

Table counted(const Json& traffic) {
  Table table;
  for (const auto& [group, operations] : traffic.items()) {
    for (const auto& [operation, t] : operations.items())
      table[group + " " + operation] = cell(t["calls"], t["bytes"]);
  }
  return table;
}

Table predicted(const std::string& path, std::vector<std::string> overrides, const VerifyLayout& layout) {
  for (const std::string& o : layout.overrides()) overrides.push_back(o);
  overrides.emplace_back("data.train=tokens.h5");
  const RunConfig config = load_config(path, overrides, layout.world());
  const TrainingStep step{.sequences = config.train.micro_batch_size,
                          .seq_len = config.train.seq_len,
                          .micro_batches = config.micro_batches(layout.world()),
                          .dtype = config.dtype(),
                          .recompute = config.train.recompute};
  const TrafficTable traffic =
      step_traffic(config.model, Mesh(layout.mesh, layout.world()), model_layout(config), step);
  Table table;
  for (const auto& [group, operations] : traffic) {
    for (const auto& [operation, t] : operations) table[group + " " + operation] = cell(t.calls, t.bytes);
  }
  return table;
}

/// Runs `verify --json` and compares each layout's traffic; without the groups whose name is `unknown`.
void expect_equal(const std::string& config, const std::vector<std::string>& overrides,
                  const std::string& layouts, const std::string& unknown = "") {
  const std::string path = HYSPARSE_SOURCE_DIR "/configs/verify/" + config + ".yaml";
  std::vector<std::string> arguments = {"verify", path, "--layouts", layouts, "--steps", "2", "--json"};
  arguments.insert(arguments.end(), overrides.begin(), overrides.end());
  const ProgramResult run = run_hysparse(0, arguments, {}, 600);
  ASSERT_EQ(run.status, 0) << run.output << run.errors;
  const Json json = Json::parse(run.output);
  const std::vector<VerifyLayout> expected = parse_layouts(layouts, 8);
  ASSERT_EQ(json["layouts"].size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    Table table = counted(json["layouts"][i]["traffic"]);
    if (!unknown.empty()) {
      const std::size_t left_out =
          std::erase_if(table, [&](const auto& row) { return row.first.starts_with(unknown); });
      EXPECT_GT(left_out, 0) << expected[i].name();
    }
    EXPECT_EQ(table, predicted(path, overrides, expected[i])) << config << ", " << expected[i].name();
  }
}

const std::string balanced = "train.balanced_routing=true";

TEST(StepTraffic, OfEachKindOfParallelism) {
  expect_equal("hysparse", {balanced},
               "dp=2;"
               "tp=2;"
               "tp=2,sp;"
               "tp=4;"  // above the two groups
               "pp=2;"
               "pp=3;"
               "pp=2,interleaved;"
               "dp=2,ep=2;"
               "dp=2,etp=2;"
               "dp=4,ep=2");
}

TEST(StepTraffic, OfRecomputation) {
  expect_equal("hysparse", {balanced},
               "dp=1,recompute=layer;"
               "tp=2,recompute=layer;"
               "tp=2,sp,recompute=selective;"
               "tp=4,recompute=selective;"
               "dp=2,ep=2,recompute=layer;"
               "pp=2,ep=2,recompute=selective");
}

TEST(StepTraffic, OfMixturesOnEightRanks) {
  expect_equal("hysparse", {balanced},
               "tp=2,sp,pp=2,interleaved,dp=2,ep=4;"
               "tp=2,dp=4,ep=2,etp=2,recompute=layer;"
               "tp=4,sp,dp=2,ep=4,etp=2,recompute=selective;"
               "tp=2,pp=2,dp=2,ep=2");
}

TEST(StepTraffic, OfUnevenSlicesInFloat32) {
  // 21 tokens in slices of 10 and 11, and of 5 and 6; three micro-batches.
  expect_equal("hysparse", {balanced, "train.seq_len=21", "train.global_batch_size=6", "train.dtype=fp32"},
               "tp=2,dp=2,ep=4;tp=4,recompute=layer");
}

TEST(StepTraffic, WithACapacityThatDrops) {
  // Each expert may take 2 of a sequence's 5.
  expect_equal("hybrid_swa", {balanced, "model.moe.capacity_factor=0.4"},
               "dp=2,ep=2;tp=2,ep=2,recompute=layer");
}

TEST(StepTraffic, OfADenseModel) {
  expect_equal("dense", {}, "tp=2,pp=2,dp=2;tp=4,sp,recompute=layer");
}

TEST(StepTraffic, OfRealRoutingButForTheRowsToExperts) {
  expect_equal("hysparse", {}, "tp=2,dp=2,ep=4,recompute=selective", "ep_etp ");
}

}  // namespace
}  // namespace hysparse::testing
