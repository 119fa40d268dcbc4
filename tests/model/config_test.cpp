#include "model/config.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "model/hf_config.h"

namespace hysparse {
namespace {

using enum LayerType;

TEST(LayerTypes, OfTheRatioCloseWithAFullLayer) {
  const auto full_layers = [](std::int64_t layers, std::int64_t followers) {
    const std::vector<LayerType> types = layer_types_from_ratio(layers, followers, sparse_attention);
    EXPECT_EQ(types.back(), full_attention);
    return std::count(types.begin(), types.end(), full_attention);
  };
  EXPECT_EQ(full_layers(49, 11), 5);
  EXPECT_EQ(full_layers(36, 3), 10);
  EXPECT_EQ(full_layers(9, 3), 3);
  EXPECT_EQ(full_layers(3, 0), 3);
  EXPECT_THROW(layer_types_from_ratio(4, 3, sparse_attention), Error);
  EXPECT_NO_THROW(layer_types_from_ratio(5, 3, sparse_attention));
}

TEST(LayerTypes, OnlyFullLayersWithSparseOnesBehindFeedFollowers) {
  ModelConfig c;
  c.layer_types = {full_attention, sliding_attention, sparse_attention,
                   full_attention, sliding_attention, full_attention};
  EXPECT_TRUE(c.feeds_followers(0));
  EXPECT_FALSE(c.feeds_followers(1));
  EXPECT_FALSE(c.feeds_followers(3));
  EXPECT_FALSE(c.feeds_followers(5));
}

TEST(Problems, NameTheKeyAndValue) {
  ModelConfig c;
  c.layer_types = {sparse_attention, full_attention};
  c.num_heads = 6;
  c.num_kv_heads = 4;
  c.rope_partial = 0.1;  // 3 of 32: odd
  const std::vector<std::string> problems = model_problems(c);
  ASSERT_EQ(problems.size(), 3u);
  EXPECT_NE(problems[0].find("num_attention_heads: 6"), std::string::npos);
  EXPECT_NE(problems[1].find("partial_rotary_factor: 0.1"), std::string::npos);
  EXPECT_NE(problems[2].find("layer_types: layer 0"), std::string::npos);
}

TEST(HfConfig, RoundTrips) {
  ModelConfig c;
  c.layer_types = layer_types_from_ratio(6, 2, sparse_attention);
  c.attention_gate = GateKind::elementwise;
  c.full_attention_gate = GateKind::headwise;
  c.share_kv_window = true;
  c.rope_partial = 0.5;
  c.rope_theta = 640000;
  c.moe = MoeConfig{
      .shared_experts = 2, .first_k_dense = 1, .scoring = RouterScoring::softmax, .routed_scaling = 2.5};
  const ExportedWeights weights{[](const std::string& name) -> std::optional<std::vector<std::int64_t>> {
    if (name.ends_with("e_score_correction_bias")) return std::vector<std::int64_t>{16};
    return std::nullopt;
  }};
  const std::string text = model_config_to_json(c, 256, "float32");
  EXPECT_EQ(max_positions_from_json(text), 256);
  const ModelConfig back = model_config_from_json(text, "config.json", weights);
  EXPECT_EQ(model_config_to_json(back, 256, "float32"), text);
  EXPECT_TRUE(back.moe->has_correction_bias);
}

TEST(HfConfig, RefusesWhatItCannotRead) {
  const ExportedWeights none{
      [](const std::string&) -> std::optional<std::vector<std::int64_t>> { return std::nullopt; }};
  const auto problems = [&](const std::string& text) {
    try {
      model_config_from_json(text, "config.json", none);
    } catch (const Error& e) {
      return e.problems();
    }
    return std::vector<std::string>{};
  };
  EXPECT_EQ(problems("[1]"), std::vector<std::string>{"config.json: not a JSON object"});
  EXPECT_EQ(problems("{").size(), 1u);
  ModelConfig c;
  c.layer_types = {full_attention};
  std::string text = model_config_to_json(c, 1, "float32");
  EXPECT_TRUE(problems(text).empty());
  text.replace(text.find("\"hidden_size\": 256"), 18, "\"hidden_size\": \"x\"");
  ASSERT_EQ(problems(text).size(), 1u);
  EXPECT_EQ(problems(text)[0], "config.json: hidden_size: \"x\": must be an integer");
}

}  // namespace
}  // namespace hysparse
