// What is printed reads back to the same config; the documentation and the shipped configs are in step with the
// schema.
#include <filesystem>

#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/config.h"
#include "launch/schema.h"
#include "tests/launch/text_files.h"

namespace hysparse {
namespace {

using testing::TextFiles;

const std::string source_dir = HYSPARSE_SOURCE_DIR;

std::string round_trip(const std::string& text) {
  return config_yaml(config_from_text(text, "printed", std::nullopt));
}

TEST(ConfigPrint, EveryKeyRoundTrips) {
  // Every scalar key moved away from its default, so that a key that is printed or read wrongly shows.
  const std::string text = R"(run: {dir: "a b", seed: 7, init_from: x/y}
model:
  attention: hybrid_swa
  hybrid_ratio: 1:2
  num_layers: 8
  vocab_size: 640
  hidden_size: 96
  num_heads: 6
  num_kv_heads: 3
  head_dim: 16
  intermediate_size: 111
  sliding_window: 17
  sparse_block_size: 8
  sparse_topk_tokens: 24
  attention_gate: elementwise
  full_attention_gate: headwise
  attention_sinks: false
  use_qk_norm: false
  share_kv: false
  share_kv_window: true
  sparse_window_branch: false
  rms_norm_eps: 1.5e-7
  tie_embeddings: true
  init_std: 0.0123456789012345678
  rope: {theta: 640000, partial: 0.5}
  moe: {num_experts: 12, top_k: 3, intermediate_size: 33, shared_experts: 2, first_k_dense: 1, scoring: softmax,
        normalize_top_k: false, routed_scaling: 2.5, bias_update_rate: 0.002, aux_loss: 0.01, z_loss: 1e-4,
        capacity_factor: 1.25}
parallel: {ep: 4}
data: {train: t.h5, valid: v.h5}
train: {device: cpu, dtype: fp64, deterministic: true, balanced_routing: true, nonfinite: skip, collective_timeout_s: 30.5,
        seq_len: 33, micro_batch_size: 3, global_batch_size: 24, steps: 77, eval_every: 11, eval_batches: 5}
optim: {lr: 0.1, schedule: cosine, warmup_steps: 3, decay_steps: 4, min_lr_ratio: 0.25, betas: [0.8, 0.99], eps: 1e-9,
        weight_decay: 0.2, clip_grad: 0.5, muon: {momentum: 0.9, ns_steps: 6, lr_scale: 0.3}}
checkpoint: {every: 9, keep: 2, async: false}
)";
  RunConfig config = config_from_text(text, "x", 4);
  const std::string printed = config_yaml(config);
  RunConfig again = config_from_text(printed, "printed", 4);
  EXPECT_EQ(config_yaml(again), printed);
  RunConfig fresh =
      config_from_text("{run: {dir: r}, data: {train: t}, model: {moe: {}}}", "fresh", std::nullopt);
  for (const SchemaKey& key : schema()) {
    EXPECT_EQ(key.write(config), key.write(again)) << key.path;
    if (!config.origins.contains(key.path) || key.path == "train.device") continue;
    if (key.path.starts_with("parallel.") && key.path != "parallel.ep") continue;
    EXPECT_NE(key.write(config), key.write(fresh)) << key.path;
  }
  EXPECT_EQ(again.model.layer_types, config.model.layer_types);
  EXPECT_EQ(again.model.init_std, 0.0123456789012345678);
}

TEST(ConfigPrint, DenseAndListedModelsRoundTrip) {
  const std::string dense =
      config_yaml(config_from_text("{run: {dir: r}, data: {train: t}}", "x", std::nullopt));
  EXPECT_NE(dense.find("  moe: null\n"), std::string::npos);
  EXPECT_NE(dense.find("  device: cpu\n"), std::string::npos);
  EXPECT_EQ(round_trip(dense), dense);
  const std::string listed = config_yaml(config_from_text(
      "{run: {dir: r}, data: {train: t}, model: {layer_types: [full_attention, sliding_attention]}}", "x",
      std::nullopt));
  EXPECT_NE(listed.find("  layer_types: [full_attention, sliding_attention]\n"), std::string::npos);
  EXPECT_EQ(listed.find("hybrid_ratio"), std::string::npos);
  EXPECT_EQ(round_trip(listed), listed);
}

TEST(ConfigPrint, DocumentationIsUpToDate) {
  EXPECT_EQ(TextFiles::read(source_dir + "/docs/config.md"), config_docs())
      << "run: hysparse config-docs > docs/config.md";
}

TEST(ConfigPrint, HelpNamesEveryKey) {
  const std::string help = config_help();
  for (const SchemaKey& key : schema()) {
    EXPECT_NE(help.find("  " + key.path + " ["), std::string::npos) << key.path;
    EXPECT_FALSE(key.help.empty()) << key.path;
    EXPECT_TRUE(is_section(key.path.substr(0, key.path.rfind('.')))) << key.path;
  }
}

TEST(ShippedConfigs, AllRead) {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(source_dir + "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++count;
    std::vector<std::string> overrides;
    // Those without data are for `hysparse verify`, which then makes its own.
    if (entry.path().parent_path().filename() == "verify") overrides.push_back("data.train=tokens.h5");
    try {
      const std::string printed = config_yaml(load_config(entry.path().string(), overrides, std::nullopt));
      EXPECT_EQ(round_trip(printed), printed) << entry.path();
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
  EXPECT_GE(count, 7);
}

TEST(ShippedConfigs, QuickstartFitsTwoRanks) {
  const RunConfig config = load_config(source_dir + "/configs/quickstart.yaml", {}, 2);
  EXPECT_EQ(config.parallel.mesh.ep, 2);
  EXPECT_TRUE(config.model.moe);
}

TEST(ShippedConfigs, PresetsOfAModelDifferInAttentionOnly) {
  for (const std::string model : {"7b", "80b-a3b"}) {
    const std::string stem = source_dir + "/configs/presets/" + model + "-";
    const RunConfig hysparse = load_config(stem + "hysparse.yaml", {}, 64);
    EXPECT_EQ(hysparse.model.layer_types.back(), LayerType::full_attention);
    for (const std::string variant : {"full", "hybrid_swa"}) {
      const RunConfig config = load_config(stem + variant + ".yaml", {}, 64);
      const RunConfig same = load_config(stem + variant + ".yaml",
                                         {"model.attention=hysparse", "run.dir=" + hysparse.run.dir}, 64);
      EXPECT_EQ(config_yaml(same), config_yaml(hysparse)) << model << variant;
      EXPECT_NE(config.model.layer_types, hysparse.model.layer_types);
    }
  }
}

}  // namespace
}  // namespace hysparse
