// Any layout reads any layout's checkpoint, optimizer state included: saved under each of six, each goes on
// under each of six, and the next steps are those of a run on one rank that was never broken.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "launch/verify_layouts.h"
#include "tests/launch/program.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* layouts =
    "dp=1;dp=4,ep=4;tp=4,sp,ep=2,recompute=selective;tp=2,pp=2,interleaved=2,dp=2,ep=2,etp=2;pp=3,dp=2,ep=2;"
    "tp=2,sp,dp=4,ep=8";
constexpr std::size_t layout_count = 6;
constexpr std::int64_t saved_steps = 3, all_steps = 6;
/// Another order of summation moves a float64 sum by parts in 1e16, and six steps of AdamW carry that on.
constexpr double tolerance = 1e-10;

/// The parameter: which layout saves.
class Reshard : public ::testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override { prepare_data(directory_, 24000); }

  std::string run_directory(const std::string& name) const { return directory_ / name; }

  /// Trains up to a step, from what the run directory holds; the lines of its metrics.
  std::vector<Json> train(const std::string& name, const VerifyLayout& layout, std::int64_t steps) const {
    std::vector<std::string> arguments{"train",
                                       HYSPARSE_SOURCE_DIR "/configs/verify/hysparse.yaml",
                                       "run.dir=" + run_directory(name),
                                       "data.train=" + directory_ / "train.h5",
                                       "model.vocab_size=320",
                                       "checkpoint.every=0",
                                       fmt::format("train.steps={}", steps)};
    for (const std::string& o : layout.overrides()) arguments.push_back(o);
    const int ranks = layout.world() > 1 ? layout.world() : 0;
    const ProgramResult result = run_hysparse(ranks, arguments, {}, 300);
    EXPECT_EQ(result.status, 0) << name << ": " << result.output << result.errors;
    return read_metrics(run_directory(name));
  }

  WorkDirectory directory_;
};

/// The largest relative difference of loss and gradient norm over the steps after the checkpoint.
double difference(const std::vector<Json>& run, const std::vector<Json>& expected) {
  if (run.size() != all_steps || expected.size() != all_steps) return INFINITY;
  double largest = 0;
  for (std::size_t i = saved_steps; i < all_steps; ++i) {
    EXPECT_EQ(run[i]["step"], i + 1);
    for (const char* key : {"loss", "grad_norm"}) {
      const double x = run[i][key], y = expected[i][key];
      largest = std::max(largest, std::abs(x - y) / std::abs(y));
    }
  }
  return largest;
}

TEST_P(Reshard, EveryLayoutReadsIt) {
  const std::vector<VerifyLayout> all = parse_layouts(layouts, 8);
  ASSERT_EQ(all.size(), layout_count);
  const VerifyLayout& before = all[GetParam()];
  const std::vector<Json> expected = train("unbroken", VerifyLayout{}, all_steps);
  ASSERT_EQ(expected.size(), all_steps);
  train("saved", before, saved_steps);
  for (const VerifyLayout& after : all) {
    fs::copy(run_directory("saved"), run_directory("resumed"), fs::copy_options::recursive);
    const double d = difference(train("resumed", after, all_steps), expected);
    EXPECT_LE(d, tolerance) << before.name() << " -> " << after.name();
    fmt::print("{} -> {}: {:.1e}\n", before.name(), after.name(), d);
    fs::remove_all(run_directory("resumed"));
  }
}

INSTANTIATE_TEST_SUITE_P(SavedBy, Reshard, ::testing::Range<std::size_t>(0, layout_count));

}  // namespace
}  // namespace hysparse::testing
