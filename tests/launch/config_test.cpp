// A good config means what it says: defaults, numbers, overrides, base files, layers.
#include "launch/config.h"

#include <gtest/gtest.h>

#include "tests/launch/text_files.h"

namespace hysparse {
namespace {

using testing::TextFiles;

/// A config in block style with the required keys on lines 1 to 4; `rest` begins on line 5.
std::string with(const std::string& rest) {
  return "run:\n  dir: r\ndata:\n  train: d.h5\n" + rest;
}

RunConfig load(const std::string& text, const std::vector<std::string>& overrides = {},
               std::optional<int> world = std::nullopt) {
  const TextFiles files;
  return load_config(files.write("x.yaml", text), overrides, world);
}

TEST(Config, Defaults) {
  const RunConfig config = load(with(""));
  EXPECT_EQ(config.run.dir, "r");
  EXPECT_EQ(config.data.train.at(0).path, "d.h5");
  EXPECT_TRUE(config.data.valid.empty());
  EXPECT_EQ(config.model.num_layers(), 9);
  EXPECT_EQ(config.model.layer_types[8], LayerType::full_attention);
  EXPECT_EQ(config.model.layer_types[7], LayerType::sparse_attention);
  EXPECT_FALSE(config.model.moe);
  EXPECT_EQ(config.train.device, RunConfig::DeviceChoice::cpu);
  EXPECT_EQ(config.dtype(), DType::f32);
  EXPECT_EQ(config.data_parallel(4), 4);
  EXPECT_EQ(config.micro_batches(4), 2);
}

TEST(Config, NumbersAreDecimal) {
  const RunConfig config =
      load(with("train:\n  seq_len: 010\n  steps: 1e6\n  eval_every: 2.0\noptim:\n  lr: 1e-3\n  eps: .5\n  "
                "betas: [+0, 0.5]\n"));
  EXPECT_EQ(config.train.seq_len, 10);
  EXPECT_EQ(config.train.steps, 1000000);
  EXPECT_EQ(config.train.eval_every, 2);
  EXPECT_EQ(config.optim.lr, 1e-3);
  EXPECT_EQ(config.optim.eps, 0.5);
  EXPECT_EQ(config.optim.betas, (std::vector<double>{0, 0.5}));
}

TEST(Config, AttentionPicksTheFollowers) {
  const std::string ratio = "model:\n  num_layers: 5\n  hybrid_ratio: 1:3\n  attention: ";
  EXPECT_EQ(load(with(ratio + "hybrid_swa\n")).model.layer_types[1], LayerType::sliding_attention);
  EXPECT_EQ(load(with(ratio + "hysparse\n")).model.layer_types[1], LayerType::sparse_attention);
  EXPECT_EQ(load(with(ratio + "full\n")).model.layer_types[1], LayerType::full_attention);
  // A model without followers needs no room for them.
  EXPECT_EQ(load(with("model:\n  num_layers: 1\n  attention: full\n")).model.num_layers(), 1);
}

TEST(Config, LayerTypesListed) {
  const RunConfig config =
      load(with("model:\n  layer_types: [full_attention, sparse_attention, sliding_attention]\n"));
  EXPECT_EQ(config.model.layer_types,
            (std::vector<LayerType>{LayerType::full_attention, LayerType::sparse_attention,
                                    LayerType::sliding_attention}));
  EXPECT_EQ(config.layers.num_layers, 3);
}

TEST(Config, MoeFollowsItsNeighbours) {
  const RunConfig config =
      load(with("model:\n  moe: {bias_update_rate: 0}\ntrain:\n  balanced_routing: true\n"));
  ASSERT_TRUE(config.model.moe);
  EXPECT_FALSE(config.model.moe->has_correction_bias);
  EXPECT_TRUE(config.model.moe->balanced_routing);
  EXPECT_EQ(config.model.moe->num_experts, 16);
}

TEST(Config, OverridesWinAndTheLastOneMost) {
  const std::string text = with("train:\n  steps: 5\nmodel:\n  moe:\n    top_k: 4\n");
  EXPECT_EQ(load(text, {"train.steps=7"}).train.steps, 7);
  EXPECT_EQ(load(text, {"train.steps=7", "train.steps=8"}).train.steps, 8);
  EXPECT_EQ(load(text, {"model.moe.num_experts=8"}).model.moe->top_k, 4);
  EXPECT_EQ(load(text, {"model.moe={num_experts: 8}"}).model.moe->top_k, 4);
  EXPECT_FALSE(load(text, {"model.moe=null"}).model.moe);
  EXPECT_EQ(load(text, {"optim.betas=[0.8, 0.9]"}).optim.betas[0], 0.8);
  EXPECT_EQ(load(text, {"run.dir=a=b"}).run.dir, "a=b");
  EXPECT_EQ(load(text, {"run.init_from=c", "run.init_from="}).run.init_from, std::nullopt);
}

TEST(Config, LayersGivenAnewReplaceTheOlder) {
  const std::string ratio = with("model:\n  attention: hybrid_swa\n  hybrid_ratio: 1:3\n  num_layers: 9\n");
  EXPECT_EQ(load(ratio, {"model.layer_types=[full_attention, sparse_attention]"}).model.num_layers(), 2);
  const std::string listed = with("model:\n  layer_types: [full_attention, sparse_attention]\n");
  EXPECT_EQ(load(listed, {"model.hybrid_ratio=1:2", "model.num_layers=4"}).model.num_layers(), 4);
}

TEST(Config, WhatAGpuHasTrainedIsReadWhereThereIsNone) {
  const RunConfig config = config_from_text(
      "{run: {dir: r}, data: {train: t}, train: {device: cuda, dtype: bf16}, parallel: {share_gpu: true}}",
      "stored", std::nullopt);
  EXPECT_EQ(config.train.device, RunConfig::DeviceChoice::cuda);
  EXPECT_EQ(config.dtype(), DType::bf16);
}

TEST(Config, BaseFilesAreRelativeToTheirFile) {
  const TextFiles files;
  files.write("low/base.yaml", with("train: {steps: 1, seq_len: 1, eval_every: 1}\n"));
  files.write("middle.yaml", "base: low/base.yaml\ntrain: {steps: 2, seq_len: 2}\nmodel:\n");
  const std::string top = files.write("up/top.yaml", "base: ../middle.yaml\ntrain:\n  steps: 3\n");
  const RunConfig config = load_config(top, {}, std::nullopt);
  EXPECT_EQ(config.train.steps, 3);
  EXPECT_EQ(config.train.seq_len, 2);
  EXPECT_EQ(config.train.eval_every, 1);
  EXPECT_EQ(config.run.dir, "r");
  EXPECT_EQ(config.origins.at("train.steps"), top + ":3");
}

}  // namespace
}  // namespace hysparse
