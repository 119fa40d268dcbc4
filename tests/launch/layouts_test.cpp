// Every layout trains as one rank does: losses and gradient norms of whole runs under mpirun, and resuming on
// another layout. Float64 tells rounding from error; in float32 only the first step is judged, since top-k and
// AdamW amplify rounding.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/launch/program.h"

namespace hysparse::testing {
namespace {

using Json = nlohmann::json;

/// Another order of summation moves a float64 sum by parts in 1e16, and 20 steps of AdamW carry that on.
constexpr double double_tolerance = 1e-10;
/// Float32 sums of some hundred terms, on one forward and backward pass.
constexpr double float_tolerance = 1e-6;

struct Layout {
  int ranks;
  int ep;
};

/// dp x ep in every combination on 1, 2 and 4 ranks.
constexpr Layout layouts[] = {{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}};
constexpr Layout one_rank = {1, 1};

class Layouts : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_data(directory_, 24000);
    config_ = write_small_config(directory_);
  }

  /// Trains into a directory of the given name; the lines of its metrics.
  std::vector<Json> train(const std::string& run, Layout layout, std::vector<std::string> overrides,
                          const std::vector<std::string>& environment = {}) const {
    overrides.insert(overrides.begin(), {"train", config_, "run.dir=" + directory_ / run});
    if (layout.ep > 1) overrides.push_back(fmt::format("parallel.ep={}", layout.ep));
    const ProgramResult result = run_hysparse(layout.ranks, overrides, environment);
    EXPECT_EQ(result.status, 0) << run << ": " << result.output << result.errors;
    return read_metrics(directory_ / run);
  }

  WorkDirectory directory_;
  std::string config_;
};

/// |a - b| / |b|; infinite when only one of them has the key.
double relative_difference(const Json& a, const Json& b, const char* key) {
  if (!a.contains(key) && !b.contains(key)) return 0;
  if (!a.contains(key) || !b.contains(key) || !a[key].is_number() || !b[key].is_number()) return INFINITY;
  const double x = a[key], y = b[key];
  return std::abs(x - y) / std::abs(y);
}

/// The largest relative difference of loss, gradient norm and validation loss over the given steps.
double largest_difference(const std::vector<Json>& run, const std::vector<Json>& expected, std::size_t first,
                          std::size_t last) {
  double largest = 0;
  for (std::size_t i = first; i < last; ++i) {
    EXPECT_EQ(run[i]["step"], i + 1);
    for (const char* key : {"loss", "grad_norm", "valid_loss"})
      largest = std::max(largest, relative_difference(run[i], expected[i], key));
  }
  return largest;
}

/// All steps of two float64 runs agree, the experts' loads exactly.
void expect_same(const std::vector<Json>& run, const std::vector<Json>& expected, const std::string& name) {
  ASSERT_EQ(run.size(), expected.size()) << name;
  const double difference = largest_difference(run, expected, 0, run.size());
  EXPECT_LE(difference, double_tolerance) << name;
  for (std::size_t i = 0; i < run.size(); ++i) {
    EXPECT_EQ(run[i].value("moe", Json()), expected[i].value("moe", Json())) << name << ", step " << i + 1;
    EXPECT_EQ(run[i]["lr"], expected[i]["lr"]);
    EXPECT_EQ(run[i]["tokens"], expected[i]["tokens"]);
  }
  fmt::print("{}: {} steps, largest relative difference {:.1e}\n", name, run.size(), difference);
}

std::string name_of(Layout layout) {
  return fmt::format("np{}-ep{}", layout.ranks, layout.ep);
}

TEST_F(Layouts, EqualOneRankInFloat64) {
  const std::vector<std::string> overrides{"train.dtype=fp64"};
  const std::vector<Json> expected = train("one", one_rank, overrides);
  ASSERT_EQ(expected.size(), 20u);
  for (const Json& line : expected) EXPECT_GT(line["grad_norm"], 0.5) << "clipping does not bite";
  for (const Layout& layout : layouts)
    expect_same(train(name_of(layout), layout, overrides), expected, name_of(layout));
}

TEST_F(Layouts, EqualOneRankInTheFirstFloat32Step) {
  const std::vector<std::string> overrides{"train.dtype=fp32"};
  const std::vector<Json> expected = train("one", one_rank, overrides);
  ASSERT_EQ(expected.size(), 20u);
  for (const Layout& layout : layouts) {
    const std::vector<Json> run = train(name_of(layout), layout, overrides);
    ASSERT_EQ(run.size(), expected.size());
    EXPECT_LE(largest_difference(run, expected, 0, 1), float_tolerance) << name_of(layout);
    fmt::print("{}: largest relative difference of step 1 {:.1e}, of the later steps {:.1e}\n", name_of(layout),
               largest_difference(run, expected, 0, 1), largest_difference(run, expected, 1, run.size()));
  }
}

TEST_F(Layouts, EqualOneRankInEveryVariant) {
  struct Variant {
    const char* name;
    std::vector<std::string> overrides;
    bool experts;
  };
  const std::vector<Variant> variants{
      {"full", {"model.attention=full"}, true},
      {"hybrid_swa", {"model.attention=hybrid_swa", "model.tie_embeddings=false"}, true},
      {"softmax",
       {"model.moe.scoring=softmax", "model.moe.capacity_factor=1.25", "model.share_kv=false",
        "model.attention_gate=elementwise"},
       true},
      {"dense", {"model.moe=null"}, false},
  };
  for (const Variant& variant : variants) {
    std::vector<std::string> overrides = variant.overrides;
    overrides.insert(overrides.end(), {"train.dtype=fp64", "train.steps=6"});
    const std::string name = variant.name;
    const std::vector<Json> expected = train(name, one_rank, overrides);
    ASSERT_EQ(expected.size(), 6u);
    if (name == "softmax") {
      EXPECT_GT(expected.back()["moe"]["dropped"], 0) << "the capacity drops nothing";
    }
    for (const Layout& layout : {Layout{2, 2}, Layout{4, 2}}) {
      const Layout used{layout.ranks, variant.experts ? layout.ep : 1};
      const std::string run = name + "-" + name_of(used);
      expect_same(train(run, used, overrides), expected, run);
    }
  }
}

TEST_F(Layouts, EqualOneRankWithOtherMicroBatchesAndThreads) {
  const std::vector<std::string> overrides{"train.dtype=fp64", "train.steps=8"};
  const std::vector<Json> expected = train("one", one_rank, overrides, {"HYSPARSE_NUM_THREADS=1"});
  ASSERT_EQ(expected.size(), 8u);
  for (const char* threads : {"2", "3"})
    expect_same(train(std::string("threads") + threads, {0, 1}, overrides,
                      {std::string("HYSPARSE_NUM_THREADS=") + threads}),
                expected, std::string(threads) + " threads");
  for (const char* size : {"2", "8"}) {
    std::vector<std::string> larger = overrides;
    larger.push_back(std::string("train.micro_batch_size=") + size);
    expect_same(train(std::string("micro") + size, one_rank, larger), expected,
                std::string("micro-batches of ") + size);
  }
  std::vector<std::string> larger = overrides;
  larger.push_back("train.micro_batch_size=4");
  expect_same(train("micro4", {2, 2}, larger, {"HYSPARSE_NUM_THREADS=2"}), expected,
              "2 ranks of 2 threads, micro-batches of 4");
}

TEST_F(Layouts, ResumeOnAnyOther) {
  const auto overrides = [](int steps) {
    return std::vector<std::string>{"train.dtype=fp64", "optim.schedule=constant",
                                    fmt::format("train.steps={}", steps), "train.eval_every=4"};
  };
  const std::vector<Json> expected = train("unbroken", one_rank, overrides(16));
  ASSERT_EQ(expected.size(), 16u);
  // One to many, many to others of another split, back to one.
  train("resumed", one_rank, overrides(4));
  train("resumed", {4, 2}, overrides(8));
  train("resumed", {2, 1}, overrides(12));
  const std::vector<Json> resumed = train("resumed", one_rank, overrides(16));
  expect_same(resumed, expected, "resumed on np4-ep2, np2-ep1, np1");
}

}  // namespace
}  // namespace hysparse::testing
