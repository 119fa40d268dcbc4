// `hysparse generate` on a small model that was trained a little: batches, chunks, sampling, stop texts,
// caches.
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/launch/program.h"

namespace hysparse::testing {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

class Generate : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = new WorkDirectory;
    prepare_data(*work_, 20000);
    const ProgramResult run = run_hysparse(0, {"train", write_small_config(*work_), "train.eval_every=0",
                                               "optim.warmup_steps=1", "train.steps=12"});
    ASSERT_EQ(run.status, 0) << run.errors;
  }
  static void TearDownTestSuite() { delete work_; }

  static ProgramResult run(const Words& more) {
    Words words = {"generate", *work_ / "run", "--max-tokens", "24"};
    words.insert(words.end(), more.begin(), more.end());
    return run_hysparse(0, words);
  }
  static Json json(Words more) {
    more.push_back("--json");
    const ProgramResult result = run(more);
    EXPECT_EQ(result.status, 0) << result.errors;
    return Json::parse(result.output);
  }
  /// Text and tokens of one prompt alone.
  static Json alone(const std::string& prompt, Words more) {
    more.insert(more.end(), {"--prompt", prompt});
    return json(more)["sequences"][0];
  }

  static inline WorkDirectory* work_ = nullptr;
  const Words prompts_ = {"The ", "a longer prompt than the window of the layers, and than a block or two: ",
                          "x",    "",
                          "The ", "\xC3\xA4 \xE2\x82\xAC"};
  const Words sampled_ = {
      "--temperature",        "1.5", "--top-k", "50", "--top-p",      "0.95",    "--min-p", "0.01",
      "--repetition-penalty", "1.1", "--seed",  "5",  "--ignore-eos", "--dtype", "fp64"};
};

TEST_F(Generate, ABatchGivesWhatEachPromptGivesAlone) {
  std::ofstream(*work_ / "prompts") << prompts_[2] << "\n\n" << prompts_[4] << "\n" << prompts_[5];
  for (const Words& options : {Words{"--dtype", "fp64"}, sampled_}) {
    Words batch = options;
    batch.insert(batch.end(), {"--prompt", prompts_[0], "--prompt", prompts_[1], "--prompts-file",
                               *work_ / "prompts", "--prefill-chunk", "5"});
    Words three = batch;
    three.insert(three.end(), {"--batch-size", "3"});
    const Json all = json(batch)["sequences"], by_three = json(three)["sequences"];
    ASSERT_EQ(all.size(), prompts_.size());
    EXPECT_EQ(all, by_three);
    for (std::size_t i = 0; i < prompts_.size(); ++i) EXPECT_EQ(all[i], alone(prompts_[i], options)) << i;
    EXPECT_EQ(all[0]["text"], all[4]["text"]);
  }
  const Json other = alone(prompts_[0], {"--temperature", "1.5", "--seed", "6", "--ignore-eos"});
  EXPECT_EQ(other, alone(prompts_[0], {"--temperature", "1.5", "--seed", "6", "--ignore-eos"}));
  EXPECT_NE(other["tokens"],
            alone(prompts_[0], {"--temperature", "1.5", "--seed", "7", "--ignore-eos"})["tokens"]);
}

TEST_F(Generate, TheTextIsTheSameHoweverItIsPrinted) {
  const Json one = alone("The ", sampled_);
  EXPECT_EQ(one["tokens"].size(), 24u);
  EXPECT_EQ(one["end"], "length");
  Words options = sampled_;
  options.insert(options.end(), {"--prompt", "The "});
  const std::string text = one["text"];
  EXPECT_EQ(run(options).output, "The " + text + "\n");
  options.insert(options.end(), {"--prompt", "The "});
  EXPECT_EQ(run(options).output, "==> 1 <==\nThe " + text + "\n==> 2 <==\nThe " + text + "\n");
}

TEST_F(Generate, StopTextsEndIt) {
  const std::string text = alone("The ", sampled_)["text"];
  const std::string stop = text.substr(text.size() / 2, 3);
  Words options = sampled_;
  options.insert(options.end(), {"--stop", "not in there \x01", "--stop", stop});
  const Json stopped = alone("The ", options);
  EXPECT_EQ(stopped["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped["end"], "stop");
}

TEST_F(Generate, TheEndOfTheDocumentEndsIt) {
  // At a high temperature any of 320 tokens comes: eos among 2000 of them, but for one case in 500.
  const Words hot = {"--temperature", "100", "--max-tokens", "2000", "--seed", "3"};
  const auto of = [&](Words more) {
    Words words = {"generate", *work_ / "run", "--prompt", "a", "--json"};
    words.insert(words.end(), hot.begin(), hot.end());
    words.insert(words.end(), more.begin(), more.end());
    return Json::parse(run_hysparse(0, words).output)["sequences"][0];
  };
  const Json ended = of({}), on = of({"--ignore-eos"});
  EXPECT_EQ(ended["end"], "eos");
  EXPECT_EQ(on["tokens"].size(), 2000u);
  const std::size_t length = ended["tokens"].size();
  ASSERT_LT(length, 2000u);
  EXPECT_EQ(on["tokens"][length], 256);
  EXPECT_TRUE(std::equal(ended["tokens"].begin(), ended["tokens"].end(), on["tokens"].begin()));
}

TEST_F(Generate, TheCachesTakeWhatTheFormulaSays) {
  const std::string prompt(3000, 'a');
  const Json report = json({"--prompt", prompt, "--prompt", "b", "--report-kv", "--ignore-eos"});
  const Json kv = report["kv_cache"];
  // 5 layers, 2 of them full; 2 groups of 8, keys and values, 4 bytes; the last token chosen is not cached.
  const std::int64_t token = 2 * 2 * 8 * 4, first = 3000 + 23, second = 1 + 23;
  EXPECT_EQ(kv["tokens"], first + second);
  EXPECT_EQ(kv["kinds"]["full_attention"]["measured_bytes"], 2 * (first + second) * token);
  EXPECT_EQ(kv["kinds"]["sparse_attention"]["measured_bytes"], 3 * (8 + 8) * token);
  EXPECT_EQ(kv["measured_bytes"], kv["bytes"]);
  EXPECT_EQ(kv["full_attention_bytes"], 5 * (first + second) * token);
  EXPECT_EQ(report["prefill"]["tokens"], 3001);
  EXPECT_EQ(report["decode"]["tokens"], 46);
  EXPECT_NE(run({"--prompt", "b", "--report-kv"}).output.find("with room for 24 tokens"), std::string::npos);
}

TEST_F(Generate, SaysWhatACacheWouldTake) {
  const Json of_run = Json::parse(
      run_hysparse(0, {"generate", *work_ / "run", "--report-kv", "--kv-tokens", "1000", "--json"}).output);
  EXPECT_EQ(of_run["bytes"], (2 * 1000 + 3 * 8) * 128);
  const std::string preset = std::string(HYSPARSE_SOURCE_DIR) + "/configs/presets/80b-a3b-hysparse.yaml";
  const Words words = {"generate", preset, "--report-kv", "--kv-tokens", "1048576", "--dtype", "bf16"};
  const ProgramResult text = run_hysparse(0, words);
  EXPECT_EQ(text.status, 0) << text.errors;
  EXPECT_NE(text.output.find("9.79 times as much"), std::string::npos) << text.output;
}

TEST_F(Generate, WarnsOfPositionsBeyondTheModels) {
  const ProgramResult result = run({"--prompt", "abcdefghijk"});
  EXPECT_EQ(result.status, 0);
  EXPECT_NE(result.errors.find("the model is made for 32"), std::string::npos) << result.errors;
  EXPECT_EQ(run({"--prompt", "abcdefgh"}).errors, "");
}

}  // namespace
}  // namespace hysparse::testing
