// Every kind of mistake in a config is found, said once, and placed.
#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/config.h"
#include "tests/launch/text_files.h"

namespace hysparse {
namespace {

using testing::TextFiles;

/// A config in block style with the required keys on lines 1 to 4; `rest` begins on line 5.
std::string with(const std::string& rest) {
  return "run:\n  dir: r\ndata:\n  train: d.h5\n" + rest;
}

std::vector<std::string> problems_of(const std::string& text, const std::vector<std::string>& overrides = {},
                                     std::optional<int> world = std::nullopt) {
  const TextFiles files;
  const std::string path = files.write("x.yaml", text);
  try {
    load_config(path, overrides, world);
  } catch (const Error& e) {
    std::vector<std::string> problems = e.problems();
    for (std::string& problem : problems) {
      for (std::size_t at; (at = problem.find(path)) != std::string::npos;)
        problem.replace(at, path.size(), "x.yaml");
    }
    return problems;
  }
  return {};
}

struct BadCase {
  std::string rest;                    // from line 5 on
  std::vector<std::string> overrides;  // on top
  int world;                           // 0: not judged
  std::vector<std::string> problems;   // exactly these
};

void expect_problems(const std::vector<BadCase>& cases) {
  for (const BadCase& bad : cases) {
    const auto world = bad.world > 0 ? std::optional<int>(bad.world) : std::nullopt;
    EXPECT_EQ(problems_of(with(bad.rest), bad.overrides, world), bad.problems) << bad.rest;
  }
}

TEST(BadConfig, Keys) {
  expect_problems(
      {BadCase{"model:\n  num_head: 4\n",
               {},
               0,
               {"x.yaml:6: model.num_head: unknown key; did you mean model.num_heads?"}},
       BadCase{"tran:\n  steps: 4\n", {}, 0, {"x.yaml:5: tran: unknown key; did you mean train?"}},
       BadCase{"train:\n  lr: 4\n", {}, 0, {"x.yaml:6: train.lr: unknown key; did you mean optim.lr?"}},
       BadCase{"", {"steps=4"}, 0, {"command line: steps: unknown key; did you mean train.steps?"}},
       BadCase{"zzzzzz: 1\n", {}, 0, {"x.yaml:5: zzzzzz: unknown key"}},
       BadCase{"model:\n  num_heads: 4\n  num_layers: 9\n  num_heads: 4\n",
               {},
               0,
               {"x.yaml:8: model.num_heads: duplicate key, first given at x.yaml:6"}},
       BadCase{"model: {}\nmodel: {}\n", {}, 0, {"x.yaml:6: model: duplicate key, first given at x.yaml:5"}},
       BadCase{"model: 3\n", {}, 0, {"x.yaml:5: model: 3: must be a section of keys"}},
       BadCase{"model:\n  moe: true\n", {}, 0, {"x.yaml:6: model.moe: true: must be a section of keys"}},
       BadCase{"base: [a]\n", {}, 0, {"x.yaml:5: base: a list: must be the path of a YAML file"}}});
}

TEST(BadConfig, Values) {
  expect_problems(
      {BadCase{
           "model:\n  num_heads: -3\n", {}, 0, {"x.yaml:6: model.num_heads: -3: must be a positive integer"}},
       BadCase{"model:\n  num_heads: 0\n", {}, 0, {"x.yaml:6: model.num_heads: 0: must be a positive integer"}},
       BadCase{"model:\n  num_heads: eight\n",
               {},
               0,
               {"x.yaml:6: model.num_heads: eight: must be a positive integer"}},
       BadCase{"model:\n  num_heads: \"8\"\n",
               {},
               0,
               {"x.yaml:6: model.num_heads: \"8\": must be a positive integer (without quotes)"}},
       BadCase{"model:\n  num_heads: [8]\n",
               {},
               0,
               {"x.yaml:6: model.num_heads: a list: must be a positive integer"}},
       BadCase{"model:\n  num_heads: {a: 1}\n",
               {},
               0,
               {"x.yaml:6: model.num_heads: a section: must be a positive integer"}},
       BadCase{
           "model:\n  num_heads:\n", {}, 0, {"x.yaml:6: model.num_heads: nothing: must be a positive integer"}},
       BadCase{"model:\n  num_heads: 0x10\n",
               {},
               0,
               {"x.yaml:6: model.num_heads: 0x10: must be a positive integer"}},
       BadCase{
           "model:\n  num_heads: 1_0\n", {}, 0, {"x.yaml:6: model.num_heads: 1_0: must be a positive integer"}},
       BadCase{
           "model:\n  num_heads: 1.5\n", {}, 0, {"x.yaml:6: model.num_heads: 1.5: must be a positive integer"}},
       BadCase{"train:\n  seq_len: 1e30\n",
               {},
               0,
               {"x.yaml:6: train.seq_len: 1e30: must be a positive integer (at most 2147483647)"}},
       BadCase{
           "train:\n  seq_len: 99999999999999999999\n",
           {},
           0,
           {"x.yaml:6: train.seq_len: 99999999999999999999: must be a positive integer (at most 2147483647)"}},
       BadCase{
           "model:\n  use_qk_norm: yes\n", {}, 0, {"x.yaml:6: model.use_qk_norm: yes: must be true or false"}},
       BadCase{"model:\n  use_qk_norm: True\n",
               {},
               0,
               {"x.yaml:6: model.use_qk_norm: True: must be true or false"}},
       BadCase{"optim:\n  lr: .inf\n", {}, 0, {"x.yaml:6: optim.lr: .inf: must be a number of at least 0"}},
       BadCase{"optim:\n  lr: nan\n", {}, 0, {"x.yaml:6: optim.lr: nan: must be a number of at least 0"}},
       BadCase{"optim:\n  lr: 1e999\n", {}, 0, {"x.yaml:6: optim.lr: 1e999: must be a number of at least 0"}},
       BadCase{"optim:\n  betas: [0.9]\n",
               {},
               0,
               {"x.yaml:6: optim.betas: a list: must be a list of 2 numbers, each a number of at least 0 and "
                "below 1"}},
       BadCase{"model:\n  attention: hysparce\n",
               {},
               0,
               {"x.yaml:6: model.attention: hysparce: must be one of full, hybrid_swa, hysparse; did you mean "
                "hysparse?"}},
       BadCase{"model:\n  layer_types: [full_attention, spars_attention]\n",
               {},
               0,
               {"x.yaml:6: model.layer_types: a list: must be a list of full_attention, sparse_attention, "
                "sliding_attention (item 2 is spars_attention; did you mean sparse_attention?)"}},
       BadCase{"model:\n  hybrid_ratio: \"2:6\"\n",
               {},
               0,
               {"x.yaml:6: model.hybrid_ratio: \"2:6\": must be \"1:n\": one full layer to n followers, n at "
                "least 1"}},
       BadCase{
           "checkpoint:\n  keep: 0\n", {}, 0, {"x.yaml:6: checkpoint.keep: 0: must be a positive integer"}}});
}

TEST(BadConfig, Rules) {
  expect_problems(
      {BadCase{"model:\n  num_heads: 7\n",
               {},
               0,
               {"x.yaml:6: model.num_heads: 7: must be a multiple of model.num_kv_heads (2)"}},
       BadCase{"model:\n  sparse_topk_tokens: 100\n",
               {},
               0,
               {"x.yaml:6: model.sparse_topk_tokens: 100: must be a multiple of model.sparse_block_size (16); "
                "nearest: 96 or 112"}},
       BadCase{"model:\n  num_layers: 4\n",
               {},
               0,
               {"x.yaml:6: model.hybrid_ratio: 1:3: needs at least 5 layers (a full layer, 3 followers, a "
                "closing full "
                "layer), model.num_layers is 4"}},
       BadCase{"model:\n  vocab_size: 300\n",
               {},
               0,
               {"x.yaml:6: model.vocab_size: 300: must be a multiple of 64; nearest: 256 or 320"}},
       BadCase{"model:\n  rope: {partial: 0.1}\n",
               {},
               0,
               {"x.yaml:6: model.rope.partial: 0.1: model.head_dim 32 times it must be even, it is 3"}},
       BadCase{"model:\n  layer_types: [sparse_attention, full_attention]\n",
               {},
               0,
               {"x.yaml:6: model.layer_types: layer 0 is sparse_attention with no full_attention layer before "
                "it"}},
       BadCase{"model:\n  layer_types: [full_attention]\n  num_layers: 2\n",
               {},
               0,
               {"x.yaml:7: model.num_layers: 2: model.layer_types lists 1 layers"}},
       BadCase{
           "model:\n  layer_types: [full_attention]\n  attention: full\n",
           {},
           0,
           {"x.yaml:7: model.attention: model.layer_types lists the layers already; give one or the other"}},
       BadCase{"model:\n  moe: {top_k: 20}\n",
               {},
               0,
               {"x.yaml:6: model.moe.top_k: 20: must be from 1 to model.moe.num_experts (16)"}},
       BadCase{"parallel:\n  ep: 2\n",
               {},
               2,
               {"x.yaml:6: parallel.ep: 2: the model has no experts (model.moe is absent); must be 1"}},
       BadCase{"train:\n  balanced_routing: true\n",
               {},
               0,
               {"x.yaml:6: train.balanced_routing: true: the model has no experts (model.moe is absent); must "
                "be false"}},
       BadCase{"model:\n  moe: {num_experts: 6}\nparallel:\n  ep: 4\n",
               {},
               4,
               {"x.yaml:8: parallel.ep: 4: must divide model.moe.num_experts (6): one of 1, 2, 3, 6"}},
       BadCase{"train:\n  global_batch_size: 15\n",
               {},
               4,
               {"x.yaml:6: train.global_batch_size: 15: must be a multiple of train.micro_batch_size 2 * dp 4 "
                "= 8; "
                "nearest: 8 or 16"}},
       BadCase{"train:\n  global_batch_size: 15\n",
               {},
               0,
               {"x.yaml:6: train.global_batch_size: 15: must be a multiple of train.micro_batch_size (2) * "
                "dp; nearest: 14 "
                "or 16"}}});
}

TEST(BadConfig, WhatIsNotThereYet) {
  expect_problems(
      {BadCase{"parallel:\n  cp: 2\n",
               {},
               2,
               {"x.yaml:6: parallel.cp: 2: context parallelism is not there yet; must be 1"}},
       BadCase{"parallel:\n  grad_reduce_dtype: bf16\n  share_gpu: true\n",
               {},
               0,
               {"x.yaml:6: parallel.grad_reduce_dtype: bf16: reducing gradients in bf16 is not there yet; "
                "must be fp32",
                "x.yaml:7: parallel.share_gpu: true: this build has no GPU backend; must be false"}},
       BadCase{"train:\n  device: cuda\n",
               {},
               0,
               {"x.yaml:6: train.device: cuda: this build has no GPU backend; must be cpu or auto"}},
       BadCase{"train:\n  dtype: bf16\n",
               {},
               0,
               {"x.yaml:6: train.dtype: bf16: bf16 is for GPUs; on the CPU it must be fp32, fp64 or auto"}},
       BadCase{"optim:\n  name: muon\n",
               {},
               0,
               {"x.yaml:6: optim.name: muon: Muon is not there yet; must be adamw"}},
       BadCase{"",
               {"data.train=[{path: a.h5, weight: 0.7}, {path: b, weight: 0}]"},
               0,
               {"command line: data.train: a list: must be a path, or a list of {path: text, weight: positive "
                "number} (not weight: 0)"}},
       BadCase{"",
               {"data.valid=[{path: a.h5, weight: 0.7}, {path: b, weight: -1}]"},
               0,
               {"command line: data.valid: a list: must be null, a path, or a list of {path: text, weight: "
                "positive number} (not weight: -1)"}},
       BadCase{"",
               {"data.train=[{path: a.h5, weigth: 0.7}]"},
               0,
               {"command line: data.train: a list: must be a path, or a list of {path: text, weight: positive "
                "number} (not "
                "weigth: 0.7)"}}});
}

TEST(BadConfig, LayoutsThatDoNotFitTheModel) {
  expect_problems(
      {BadCase{"parallel:\n  tp: 5\n",
               {"model.intermediate_size=720"},
               5,
               {"x.yaml:6: parallel.tp: 5: must divide model.num_heads (8): one of 1, 2, 4, 8",
                "x.yaml:6: parallel.tp: 5: must divide model.num_kv_heads (2), or be a multiple of it (2 "
                "groups are "
                "then held by several ranks each)"}},
       BadCase{"parallel:\n  tp: 6\n",
               {"model.num_heads=12", "model.num_kv_heads=4", "model.vocab_size=384",
                "model.intermediate_size=720"},
               6,
               {"x.yaml:6: parallel.tp: 6: must divide model.num_kv_heads (4), or be a multiple of it (4 "
                "groups are "
                "then held by several ranks each)"}},
       BadCase{"parallel:\n  etp: 2\n",
               {},
               2,
               {"x.yaml:6: parallel.etp: 2: the model has no experts (model.moe is absent); must be 1"}},
       BadCase{"parallel:\n  etp: 3\n",
               {"model.moe={}", "train.global_batch_size=18"},
               3,
               {"x.yaml:6: parallel.etp: 3: must divide model.moe.intermediate_size (128): one of 1, 2, 4, 8, "
                "16, 32, 64, 128"}},
       BadCase{"parallel:\n  tp: 2\n  sequence_parallel: true\n",
               {"train.seq_len=255"},
               2,
               {"command line: train.seq_len: 255: parallel.sequence_parallel needs a multiple of parallel.tp "
                "(2); nearest: 254 or 256"}},
       BadCase{"parallel:\n  virtual_stages: 2\n",
               {},
               0,
               {"x.yaml:6: parallel.virtual_stages: 2: several chunks per stage are for parallel.schedule: "
                "interleaved with parallel.pp above 1; else it must be 1"}},
       BadCase{"parallel:\n  pp: 4\n",
               {},
               4,
               {"x.yaml:6: parallel.pp: 4: 4 chunks of layers, but the model has only 3 parts to place (a full "
                "layer "
                "and the sparse layers that read its oracle stay together): parallel.pp may be 1 to 3"}}});
}

TEST(BadConfig, Overrides) {
  expect_problems(
      {BadCase{"", {"train.steps"}, 0, {"command line: train.steps: an override is key.path=value"}},
       BadCase{
           "", {"=3"}, 0, {"command line: =3: an override is key.path=value, with a key such as train.steps"}},
       BadCase{"", {"base=y.yaml"}, 0, {"command line: base=y.yaml: base belongs in a file"}},
       BadCase{"",
               {"train.steps=[1"},
               0,
               {"command line: train.steps=[1: not YAML: end of sequence flow not found"}},
       BadCase{"", {"train.steps=-1"}, 0, {"command line: train.steps: -1: must be a positive integer"}}});
}

TEST(Config, AllProblemsAtOnce) {
  const auto problems = problems_of(with("model:\n  num_heads: -3\n  foo_bar_baz: 1\n  vocab_size: 65\n"
                                         "parallel:\n  ep: 3\n  tp: 2\ntrain:\n  steps: x\n  steps: 3\n"),
                                    {"optim.lr=-1"}, 4);
  EXPECT_EQ(problems.size(), 8u) << ::testing::PrintToString(problems);
}

TEST(Config, ValuesThatWereRefusedCauseNoSecondProblem) {
  // The default of num_kv_heads would not divide 7, and ep does not divide a refused number of experts.
  EXPECT_EQ(problems_of(with("model:\n  num_heads: 7\n  num_kv_heads: x\n")).size(), 1u);
  EXPECT_EQ(problems_of(with("model:\n  moe: {num_experts: x}\nparallel: {ep: 3}\n"), {}, 3).size(),
            2u);  // and the batch
  EXPECT_EQ(problems_of(with("model:\n  num_layers: x\n  hybrid_ratio: \"1:30\"\n")).size(), 1u);
  EXPECT_EQ(problems_of(with("model:\n  layer_types: x\n")).size(), 1u);
}

TEST(Config, WorldMustFitTheMesh) {
  const std::string text = with("model:\n  moe: {}\nparallel:\n  ep: 4\n");
  EXPECT_TRUE(problems_of(text, {}, 4).empty());
  EXPECT_TRUE(problems_of(text, {}, 8).empty());
  const auto problems = problems_of(text, {"train.global_batch_size=12"}, 6);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_NE(problems[0].find("x.yaml:8: "), std::string::npos) << problems[0];
  EXPECT_NE(problems[0].find("world size 6"), std::string::npos) << problems[0];
  EXPECT_NE(problems[0].find("4 and 8"), std::string::npos) << problems[0];
}

TEST(Config, RequiredKeys) {
  for (const char* text : {"", "# nothing\n", "null\n", "{}", "run:\ndata:\n"}) {
    const auto problems = problems_of(text);
    ASSERT_EQ(problems.size(), 2u) << text;
    EXPECT_EQ(problems[0], "x.yaml: run.dir: required key is missing; must be text");
    EXPECT_TRUE(problems[1].starts_with("x.yaml: data.train: required key is missing")) << problems[1];
  }
}

TEST(Config, BaseMistakesNameBothFiles) {
  const TextFiles files;
  const auto problem = [](const std::string& path) {
    try {
      load_config(path, {}, std::nullopt);
    } catch (const Error& e) {
      return e.problems().at(0);
    }
    return std::string();
  };
  const std::string a = files.write("a.yaml", with("base: b.yaml\n"));
  files.write("b.yaml", "base: ./a.yaml\n");
  EXPECT_EQ(problem(a), files.path("b.yaml") + ":1: base: ./a.yaml: inherits from itself");
  const std::string c = files.write("c.yaml", "base: none.yaml\n");
  EXPECT_EQ(problem(c).rfind(c + ":1: base: none.yaml: ", 0), 0u) << problem(c);
  const std::string d = files.write("d.yaml", "base: e.yaml\n");
  files.write("e.yaml", with("model:\n  num_head: 3\n"));
  EXPECT_EQ(problem(d),
            files.path("e.yaml") + ":6: model.num_head: unknown key; did you mean model.num_heads?");
}

}  // namespace
}  // namespace hysparse
