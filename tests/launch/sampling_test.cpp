// Blends and document masks in whole runs: the same samples on every layout and across a resume at any step;
// what may change between two parts of a run, and what may not.
#include <cmath>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/launch/program.h"

namespace hysparse::testing {
namespace {

using Json = nlohmann::json;

/// Another order of summation, carried on by some steps of AdamW in float64. Another sample in one step would
/// be seen at 1e-3.
constexpr double tolerance = 1e-10;
constexpr int steps = 8;

class Sampling : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_data(directory_, 24000);
    config_ = write_small_config(directory_);
    std::ofstream(directory_ / "b.jsonl") << documents(60, 100);
    std::ofstream(directory_ / "c.jsonl") << documents(90, 500);
    for (const char* name : {"b", "c"}) {
      const ProgramResult result =
          run_hysparse(0, {"prepare", "--input", directory_ / fmt::format("{}.jsonl", name), "--tokenizer",
                           "byte", "--output", directory_ / fmt::format("{}.h5", name)});
      if (result.status != 0) throw std::runtime_error("prepare: " + result.errors);
    }
  }

  static std::string documents(int count, std::uint64_t seed) {
    std::string lines;
    for (int d = 0; d < count; ++d) {
      const auto length = static_cast<std::size_t>(3 + d * 37 % 61);
      lines += Json{{"text", sample_text(length, seed + static_cast<std::uint64_t>(d))}}.dump() + "\n";
    }
    return lines;
  }

  std::string blend(const std::string& first = "train.h5", double a = 0.5, double b = 0.3,
                    double c = 0.2) const {
    return fmt::format(
        "data.train=[{{path: {}, weight: {}}}, {{path: {}, weight: {}}}, {{path: {}, weight: {}}}]",
        directory_ / first, a, directory_ / "b.h5", b, directory_ / "c.h5", c);
  }

  ProgramResult start(const std::string& run, int ranks, int until, std::vector<std::string> overrides) const {
    overrides.insert(overrides.begin(),
                     {"train", config_, "run.dir=" + directory_ / run, "train.dtype=fp64", "train.eval_every=4",
                      "optim.schedule=constant", "checkpoint.every=1", fmt::format("train.steps={}", until)});
    return run_hysparse(ranks, overrides);
  }

  std::vector<Json> train(const std::string& run, int ranks, int until,
                          const std::vector<std::string>& overrides) const {
    const ProgramResult result = start(run, ranks, until, overrides);
    EXPECT_EQ(result.status, 0) << run << ": " << result.output << result.errors;
    return read_metrics(directory_ / run);
  }

  static void expect_same(const std::string& run, const std::vector<Json>& a, const std::vector<Json>& b) {
    ASSERT_EQ(a.size(), b.size()) << run;
    for (std::size_t i = 0; i < a.size(); ++i) {
      for (const char* key : {"loss", "grad_norm", "valid_loss"}) {
        ASSERT_EQ(a[i].contains(key), b[i].contains(key)) << run << " step " << i + 1 << " " << key;
        if (!a[i].contains(key)) continue;
        const double x = a[i][key], y = b[i][key];
        EXPECT_LT(std::abs(x - y), tolerance * std::abs(y)) << run << " step " << i + 1 << " " << key;
      }
    }
  }

  WorkDirectory directory_;
  std::string config_;
};

TEST_F(Sampling, EveryLayoutAndEveryResumeSeesTheSameSamples) {
  const std::vector<std::string> data{
      blend(), fmt::format("data.valid=[{{path: {}, weight: 2}}, {{path: {}, weight: 1}}]",
                           directory_ / "valid.h5", directory_ / "b.h5")};
  for (const char* mask : {"data.document_mask=false", "data.document_mask=true"}) {
    std::vector<std::string> overrides = data;
    overrides.emplace_back(mask);
    const std::string name = std::string(mask) == "data.document_mask=true" ? "masked" : "plain";
    const std::vector<Json> expected = train(name, 1, steps, overrides);
    ASSERT_EQ(expected.size(), static_cast<std::size_t>(steps));
    EXPECT_TRUE(expected[3].contains("valid_loss"));
    for (const int ranks : {2, 4}) {
      const std::string run = fmt::format("{}-{}", name, ranks);
      expect_same(run, train(run, ranks, steps, overrides), expected);
    }
    // Stopped after every step, and taken up by another number of ranks each time.
    std::vector<Json> resumed;
    for (int step = 1; step <= steps; ++step) {
      const int ranks = step % 3 == 0 ? 4 : step % 3;
      resumed = train(name + "-resumed", ranks, step, overrides);
    }
    std::vector<Json> without_validation = expected;  // the last step of a part is validated as well
    for (Json& line : resumed) line.erase("valid_loss");
    for (Json& line : without_validation) line.erase("valid_loss");
    expect_same(name + "-resumed", resumed, without_validation);
  }
  EXPECT_NE(read_metrics(directory_ / "plain")[0]["loss"], read_metrics(directory_ / "masked")[0]["loss"]);
}

TEST_F(Sampling, PipelineAndTensorParallelRanksSeeTheDocuments) {
  const std::vector<std::string> masked{blend(), "data.document_mask=true"};
  const std::vector<Json> expected = train("one", 1, 3, masked);
  for (const char* layout : {"parallel.pp=2", "parallel.tp=2"}) {
    std::vector<std::string> overrides = masked;
    overrides.emplace_back(layout);
    expect_same(layout, train(layout, 2, 3, overrides), expected);
  }
}

TEST_F(Sampling, AnotherOrderOfSamplesNeedsAnotherRun) {
  train("run", 1, 2, {blend()});
  const Json manifest = Json::parse(std::ifstream(directory_ / "run/checkpoints/step-000002/manifest.json"));
  const Json& state = manifest["data_state"];  // 16 samples
  EXPECT_EQ(state["source.0.samples"], "8");
  EXPECT_EQ(state["source.1.samples"], "5");
  EXPECT_EQ(state["source.2.samples"], "3");

  const auto refused = [&](const std::vector<std::string>& overrides, const std::string& what,
                           std::vector<std::string> flags = {}) {
    flags.insert(flags.end(), overrides.begin(), overrides.end());
    const ProgramResult result = start("run", 2, 4, flags);
    EXPECT_EQ(result.status, 2) << what;
    EXPECT_NE(result.errors.find(what), std::string::npos) << result.errors;
    EXPECT_NE(result.errors.find("step-000002 was trained with"), std::string::npos) << result.errors;
    EXPECT_NE(result.errors.find("run.init_from"), std::string::npos) << result.errors;
  };
  refused({blend("train.h5", 0.6, 0.2, 0.2)}, "weight 0.6: the checkpoint ");
  refused({blend("train.h5", 0.6, 0.2, 0.2)}, "weight 0.6: the checkpoint ", {"--dry-run"});
  refused({blend("valid.h5")}, "data.train: " + directory_ / "valid.h5" + ": ");
  refused({}, "data.train: 1 sources: the checkpoint ");
  refused({blend(), "run.seed=8"}, "run.seed: 8: the checkpoint ");
  refused({blend(), "train.seq_len=16"}, "train.seq_len: 16: the checkpoint ");

  // The same proportions, files that moved, and masks on or off are no other order.
  std::filesystem::rename(directory_ / "train.h5", directory_ / "moved.h5");
  const ProgramResult moved =
      start("run", 2, 3, {blend("moved.h5", 5, 3, 2), "data.document_mask=true", "train.global_batch_size=4"});
  EXPECT_EQ(moved.status, 0) << moved.errors;
}

}  // namespace
}  // namespace hysparse::testing
