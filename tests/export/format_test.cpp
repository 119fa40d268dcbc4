#include "export/format.h"

#include <algorithm>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/tokenizer.h"
#include "export/python_files.h"
#include "export/tokenizer_files.h"

namespace hysparse {
namespace {

using Json = nlohmann::json;

constexpr ExportFormat stock[] = {ExportFormat::qwen3_moe, ExportFormat::mixtral, ExportFormat::glm4_moe,
                                  ExportFormat::qwen3};
const ExportedWeights no_weights{[](const std::string&) { return std::nullopt; }};

/// A model that the class holds, with sizes that differ from each other and from every default.
ModelConfig model_for(ExportFormat format) {
  ModelConfig c;
  c.layer_types.assign(3, LayerType::full_attention);
  c.vocab_size = 448;
  c.hidden_size = 40;
  c.num_heads = 6;
  c.num_kv_heads = 3;
  c.head_dim = 12;
  c.intermediate_size = 52;
  c.attention_gate = GateKind::none;
  c.attention_sinks = false;
  c.rope_theta = 640000;
  c.rms_norm_eps = 1e-5;
  c.tie_embeddings = true;
  c.use_qk_norm = format != ExportFormat::mixtral;
  if (format == ExportFormat::qwen3) return c;
  MoeConfig moe;
  moe.num_experts = 10;
  moe.top_k = 3;
  moe.intermediate_size = format == ExportFormat::mixtral ? c.intermediate_size : 28;
  moe.scoring = RouterScoring::softmax;
  moe.has_correction_bias = false;
  if (format == ExportFormat::qwen3_moe) {
    moe.first_k_dense = 1;
    moe.normalize_top_k = false;
  }
  if (format == ExportFormat::glm4_moe) {
    c.rope_partial = 0.5;
    moe.scoring = RouterScoring::sigmoid;
    moe.has_correction_bias = true;
    moe.shared_experts = 2;
    moe.first_k_dense = 1;
    moe.routed_scaling = 2.5;
  }
  c.moe = moe;
  return c;
}

void expect_same(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.layer_types, b.layer_types);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.num_heads, b.num_heads);
  EXPECT_EQ(a.num_kv_heads, b.num_kv_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.use_qk_norm, b.use_qk_norm);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.rope_partial, b.rope_partial);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.tie_embeddings, b.tie_embeddings);
  ASSERT_EQ(a.moe.has_value(), b.moe.has_value());
  if (!a.moe) return;
  EXPECT_EQ(a.moe->num_experts, b.moe->num_experts);
  EXPECT_EQ(a.moe->top_k, b.moe->top_k);
  EXPECT_EQ(a.moe->intermediate_size, b.moe->intermediate_size);
  EXPECT_EQ(a.moe->shared_experts, b.moe->shared_experts);
  EXPECT_EQ(a.moe->first_k_dense, b.moe->first_k_dense);
  EXPECT_EQ(a.moe->scoring, b.moe->scoring);
  EXPECT_EQ(a.moe->normalize_top_k, b.moe->normalize_top_k);
  EXPECT_EQ(a.moe->routed_scaling, b.moe->routed_scaling);
  EXPECT_EQ(a.moe->has_correction_bias, b.moe->has_correction_bias);
}

TEST(ExportFormat, AutoChoosesTheClassThatHoldsTheModel) {
  for (const ExportFormat format : stock) {
    const ModelConfig config = model_for(format);
    EXPECT_EQ(natural_format(config), format) << export_format_name(format);
    for (const ExportFormat other : stock) EXPECT_EQ(obstacles(other, config).empty(), other == format);
    EXPECT_TRUE(obstacles(ExportFormat::hysparse, config).empty());
    ModelConfig sparse = config;
    sparse.layer_types[1] = LayerType::sparse_attention;
    EXPECT_EQ(natural_format(sparse), ExportFormat::hysparse);
    ModelConfig gated = config;
    gated.full_attention_gate = GateKind::headwise;
    EXPECT_EQ(natural_format(gated), ExportFormat::hysparse);
  }
}

TEST(ExportFormat, ObstaclesNameTheOption) {
  ModelConfig c = model_for(ExportFormat::glm4_moe);
  c.full_attention_gate = GateKind::elementwise;
  c.layer_types[2] = LayerType::sliding_attention;
  EXPECT_EQ(
      obstacles(ExportFormat::qwen3_moe, c),
      (std::vector<std::string>{
          "model.attention: sliding_attention: Qwen3MoeForCausalLM has full attention only",
          "model.full_attention_gate: elementwise: Qwen3MoeForCausalLM has no gate",
          "model.rope.partial: 0.5: Qwen3MoeForCausalLM has rotation of whole heads",
          "model.moe.scoring: sigmoid: Qwen3MoeForCausalLM has a softmax router",
          "model.moe.bias_update_rate: 0.001: Qwen3MoeForCausalLM has no correction bias (0 trains without)",
          "model.moe.shared_experts: 2: Qwen3MoeForCausalLM has none",
          "model.moe.routed_scaling: 2.5: Qwen3MoeForCausalLM has no such factor"}));
  EXPECT_EQ(obstacles(ExportFormat::mixtral, model_for(ExportFormat::qwen3_moe)),
            (std::vector<std::string>{
                "model.use_qk_norm: true: MixtralForCausalLM has no q/k norm",
                "model.moe.normalize_top_k: false: MixtralForCausalLM has weights that are renormalised",
                "model.moe.first_k_dense: 1: MixtralForCausalLM has no dense layers"}));
  EXPECT_EQ(obstacles(ExportFormat::qwen3, model_for(ExportFormat::mixtral)).size(), 2u);
  EXPECT_EQ(obstacles(ExportFormat::glm4_moe, model_for(ExportFormat::qwen3)).size(), 1u);
}

TEST(ExportFormat, ConfigJsonThereAndBack) {
  for (const ExportFormat format : stock) {
    const ModelConfig config = model_for(format);
    const std::string text = class_config_json(format, config, {64, "bfloat16", 256});
    EXPECT_EQ(format_of_config(text, "f"), format);
    expect_same(config_from_class_json(format, text, "f", no_weights), config);
    const Json j = Json::parse(text);
    EXPECT_EQ(j["architectures"], Json::array({export_class_name(format)}));
    EXPECT_EQ(j["head_dim"], 12);
    EXPECT_EQ(j["eos_token_id"], 256);
    EXPECT_TRUE(j["rope_theta"].is_number_float() && j["rms_norm_eps"].is_number_float());
    EXPECT_EQ(j["rope_parameters"]["rope_type"], "default");
    EXPECT_EQ(j["rope_parameters"]["rope_theta"], 640000.0);
    EXPECT_EQ(j["dtype"], "bfloat16");
    EXPECT_EQ(j.contains("norm_topk_prob"), format != ExportFormat::qwen3);
  }
}

TEST(ExportFormat, ConfigJsonOfOlderTransformers) {
  const std::string text = R"({"model_type": "mixtral", "vocab_size": 64, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "num_local_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
    "sliding_window": null, "torch_dtype": "bfloat16"})";
  const ModelConfig c = config_from_class_json(ExportFormat::mixtral, text, "f", no_weights);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_EQ(c.moe->num_experts, 4);
}

TEST(ExportFormat, WhatNoOptionDoesIsRefused) {
  const auto problem = [](ExportFormat format, const char* key, const Json& value) {
    Json j = Json::parse(class_config_json(format, model_for(format), {}));
    j[key] = value;
    try {
      config_from_class_json(format, j.dump(), "f", no_weights);
    } catch (const Error& e) {
      EXPECT_EQ(e.problems().size(), 1u) << e.what();
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(problem(ExportFormat::qwen3, "hidden_act", "gelu"), R"(f: hidden_act: "gelu": must be silu)");
  EXPECT_EQ(problem(ExportFormat::qwen3, "attention_bias", true), "f: attention_bias: true: must be false");
  EXPECT_EQ(problem(ExportFormat::qwen3, "use_sliding_window", true),
            "f: use_sliding_window: true: must be false");
  EXPECT_EQ(problem(ExportFormat::mixtral, "sliding_window", 4096), "f: sliding_window: 4096: must be null");
  EXPECT_EQ(problem(ExportFormat::qwen3, "layer_types", {"full_attention", "sliding_attention"}),
            "f: layer_types: must be full_attention in every layer");
  EXPECT_EQ(problem(ExportFormat::qwen3_moe, "mlp_only_layers", {1}),
            "f: mlp_only_layers: [1]: must be the first layers, in order");
  EXPECT_EQ(problem(ExportFormat::qwen3_moe, "decoder_sparse_step", 2), "f: decoder_sparse_step: 2: must be 1");
  EXPECT_EQ(problem(ExportFormat::glm4_moe, "n_group", 4), "f: n_group: 4: must be 1");
  EXPECT_EQ(problem(ExportFormat::qwen3, "rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}),
            R"(f: rope_type: "yarn": must be default)");
  EXPECT_EQ(problem(ExportFormat::qwen3, "num_hidden_layers", 2000000000),
            "f: num_hidden_layers: 2000000000: must be 1 to 1048576");
  EXPECT_EQ(problem(ExportFormat::qwen3, "vocab_size", nullptr), "f: vocab_size: missing");
  EXPECT_EQ(problem(ExportFormat::qwen3_moe, "num_experts", 0.5),
            "f: num_experts: 0.5: must be an integer of at most 2147483647");
  EXPECT_THROW(format_of_config(R"({"model_type": "llama"})", "f"), Error);
  EXPECT_THROW(format_of_config(R"({"model_type": 3})", "f"), Error);
  EXPECT_THROW(config_from_class_json(ExportFormat::qwen3, "[]", "f", no_weights), Error);
}

TEST(ExportFormat, NamesOfTensors) {
  const auto mixtral = [](const std::string& name) { return class_tensor_name(ExportFormat::mixtral, name); };
  EXPECT_EQ(mixtral("model.layers.2.mlp.experts.7.gate_proj.weight"),
            "model.layers.2.block_sparse_moe.experts.7.w1.weight");
  EXPECT_EQ(mixtral("model.layers.2.mlp.experts.7.up_proj.weight"),
            "model.layers.2.block_sparse_moe.experts.7.w3.weight");
  EXPECT_EQ(mixtral("model.layers.2.mlp.experts.7.down_proj.weight"),
            "model.layers.2.block_sparse_moe.experts.7.w2.weight");
  EXPECT_EQ(mixtral("model.layers.2.mlp.gate.weight"), "model.layers.2.block_sparse_moe.gate.weight");
  EXPECT_EQ(mixtral("model.layers.2.self_attn.q_proj.weight"), "model.layers.2.self_attn.q_proj.weight");
  EXPECT_EQ(class_tensor_name(ExportFormat::glm4_moe, "model.layers.2.mlp.shared_experts.up_proj.weight"),
            "model.layers.2.mlp.shared_experts.up_proj.weight");

  ModelConfig glm = model_for(ExportFormat::glm4_moe);
  EXPECT_TRUE(zero_tensors(ExportFormat::glm4_moe, glm).empty());
  glm.moe->has_correction_bias = false;
  glm.moe->shared_experts = 0;
  EXPECT_EQ(zero_tensors(ExportFormat::glm4_moe, glm).size(), 8u);  // two layers of experts
}

TEST(ExportFormat, FilesBesideTheWeights) {
  const std::string text =
      class_config_json(ExportFormat::hysparse, model_for(ExportFormat::qwen3), {64, "float32", {}});
  const Json j = Json::parse(text);
  for (const PythonFile& file : python_files()) {
    EXPECT_GT(file.text.size(), 2000u);
    EXPECT_TRUE(file.text.ends_with("\n"));
  }
  EXPECT_EQ(j["auto_map"]["AutoModelForCausalLM"], "modeling_hysparse.HySparseForCausalLM");
  EXPECT_TRUE(python_files()[1].text.find("class HySparseForCausalLM(") != std::string_view::npos);
  EXPECT_TRUE(python_files()[0].text.find("class HySparseConfig(") != std::string_view::npos);

  const Json generation = Json::parse(generation_config_json({64, "float32", 256}));
  EXPECT_EQ(generation["eos_token_id"], 256);
  const Json tokenizer = Json::parse(tokenizer_config_json(*make_tokenizer("byte"), 64));
  EXPECT_EQ(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(tokenizer["eos_token"], "<|endoftext|>");
  EXPECT_EQ(tokenizer["model_max_length"], 64);
}

}  // namespace
}  // namespace hysparse
