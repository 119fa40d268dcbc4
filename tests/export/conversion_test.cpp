// What import makes of a model: the same one bitwise, or one of other attention that begins near it.
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "checkpoint/region.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "data/formats/raw_tokens.h"
#include "data/sampler.h"
#include "launch/converted_source.h"
#include "launch/evaluate.h"
#include "launch/run_device.h"

namespace hysparse {
namespace {

std::string golden(const std::string& name) {
  return fmt::format("{}/tests/export/golden/{}", HYSPARSE_SOURCE_DIR, name);
}

std::vector<double> read(const ModelSource& source, const std::string& name) {
  for (const ParameterDeclaration& d : declare_parameters(source.config(), {})) {
    if (d.name != name) continue;
    const Tensor out = Tensor::empty(d.shape, DType::f64);
    const SourceRead part{&d, whole_box(d.shape), out};
    source.read({&part, 1});
    return out.to_vector<double>();
  }
  throw_failure("no {}", name);
}

/// full, sparse (or sliding)
ModelConfig target_of(const ModelConfig& source, LayerType second) {
  ModelConfig c = source;
  c.layer_types[1] = second;
  c.attention_gate = GateKind::headwise;
  c.attention_sinks = true;
  c.sliding_window = 64;  // more than any window of tokens here
  c.sparse_block_size = 4;
  c.sparse_topk_tokens = 8;
  return c;
}

double loss_of(const ModelSource& source, const std::string& tokens_path) {
  ThreadPool pool(1);
  const Stream stream = open_device(Device{}, pool);
  ParameterSet parameters(source.config(), Mesh(MeshConfig{}, 1), 0, DType::f64, false);
  source.load(parameters);
  const Model model(source.config(), parameters);
  const RawTokenFile tokens(tokens_path);
  SequentialWindows windows(tokens, 20);
  return evaluate(model, windows, 1, stream, false).loss;
}

TEST(Conversion, TheSameModelIsTheSame) {
  for (const char* name : {"qwen3", "qwen3_moe", "mixtral", "glm4_moe"}) {
    const auto source = ModelSource::open(golden(name));
    const auto converted = convert(ModelSource::open(golden(name)), source->config());
    for (const ParameterDeclaration& d : declare_parameters(source->config(), {}))
      EXPECT_EQ(read(*converted, d.name), read(*source, d.name)) << d.name;
  }
}

TEST(Conversion, FullLayersBecomeSparse) {
  const auto source = ModelSource::open(golden("qwen3_moe"));
  const ModelConfig target = target_of(source->config(), LayerType::sparse_attention);
  const auto converted = convert(ModelSource::open(golden("qwen3_moe")), target);
  const std::string attention = "model.layers.1.self_attn.";
  for (const char* same : {"q_proj.weight", "k_proj.weight", "v_proj.weight", "q_norm.weight", "k_norm.weight"})
    EXPECT_EQ(read(*converted, attention + same), read(*source, attention + same)) << same;
  for (const char* gate : {"sparse_gate_proj.weight", "window_gate_proj.weight"}) {
    const std::vector<double> zeros(static_cast<std::size_t>(target.num_heads * target.hidden_size));
    EXPECT_EQ(read(*converted, attention + gate), zeros);
  }
  std::vector<double> doubled = read(*source, attention + "o_proj.weight");
  for (double& v : doubled) v *= 2;
  EXPECT_EQ(read(*converted, attention + "o_proj.weight"), doubled);
  EXPECT_EQ(read(*converted, attention + "window_sinks").front(), ConversionValues::window_sink);
  EXPECT_EQ(read(*converted, attention + "sparse_sinks").front(),
            std::log(8.0) + ConversionValues::sparse_margin);
  EXPECT_EQ(read(*converted, "model.layers.0.self_attn.o_proj.weight"),
            read(*source, "model.layers.0.self_attn.o_proj.weight"));
}

/// With a window that reaches everything, what is left of the difference are the sinks.
TEST(Conversion, TheLossBeginsNearTheSources) {
  for (const char* name : {"qwen3", "qwen3_moe", "mixtral", "glm4_moe"}) {
    const std::string tokens = golden(name) + "/tokens.bin";
    const auto source = ModelSource::open(golden(name));
    const double before = loss_of(*source, tokens);
    for (const LayerType kind : {LayerType::sparse_attention, LayerType::sliding_attention}) {
      const auto converted = convert(ModelSource::open(golden(name)), target_of(source->config(), kind));
      const double after = loss_of(*converted, tokens);
      constexpr double near = 0.02;
      EXPECT_LT(std::abs(after - before), near * before) << name << " " << layer_type_name(kind);
      EXPECT_NE(after, before);
    }
  }
}

TEST(Conversion, BranchesAddUpToOne) {
  const auto source = ModelSource::open(golden("qwen3"));
  const auto factor = [&](const std::function<void(ModelConfig&)>& change) {
    ModelConfig target = target_of(source->config(), LayerType::sparse_attention);
    change(target);
    const auto converted = convert(ModelSource::open(golden("qwen3")), target);
    const std::string name = "model.layers.1.self_attn.o_proj.weight";
    return read(*converted, name).front() / read(*source, name).front();
  };
  EXPECT_EQ(factor([](ModelConfig& c) { c.attention_gate = GateKind::none; }), 1.0);
  EXPECT_EQ(factor([](ModelConfig& c) { c.attention_gate = GateKind::elementwise; }), 2.0);
  EXPECT_EQ(factor([](ModelConfig& c) { c.share_kv = false; }), 1.0);
  EXPECT_EQ(factor([](ModelConfig& c) { c.attention_sinks = false; }), 1.0);
  EXPECT_EQ(factor([](ModelConfig& c) { c.sparse_window_branch = false; }), 2.0);
  EXPECT_EQ(factor([](ModelConfig& c) {
              c.attention_sinks = false;
              c.attention_gate = GateKind::none;
            }),
            0.5);
}

TEST(Conversion, WhatAModelCannotBecomeIsNamed) {
  const auto problems = [](const char* name, const std::function<void(ModelConfig&)>& change) {
    auto source = ModelSource::open(golden(name));
    ModelConfig target = source->config();
    change(target);
    try {
      convert(std::move(source), target);
    } catch (const Error& e) {
      std::vector<std::string> lines = e.problems();
      for (std::string& line : lines) {
        if (const std::size_t at = line.find(golden(name)); at != std::string::npos)
          line = fmt::format("{}@{}", line.substr(0, at), line.substr(at + golden(name).size()));
      }
      return lines;
    }
    return std::vector<std::string>{};
  };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(problems("qwen3_moe",
                     [](ModelConfig& c) {
                       c.hidden_size = 32;
                       c.rope_theta = 640000;
                       c.moe->top_k = 1;
                       c.moe->scoring = RouterScoring::sigmoid;
                     }),
            (Lines{"model.hidden_size: 32: export @ has 16", "model.rope.theta: 640000: export @ has 10000",
                   "model.moe.top_k: 1: export @ has 2", "model.moe.scoring: sigmoid: export @ has softmax"}));
  EXPECT_EQ(problems("mixtral", [](ModelConfig& c) { c.moe.reset(); }).size(), 1u);
  EXPECT_EQ(problems("mixtral", [](ModelConfig& c) { c.tie_embeddings = true; }),
            Lines{"model.tie_embeddings: true: export @ has false"});
  EXPECT_EQ(
      problems("glm4_moe", [](ModelConfig& c) { c.moe->has_correction_bias = false; }),
      Lines{"export @: model.layers.1.mlp.gate.e_score_correction_bias has no place in the config's model "
            "(model.moe.bias_update_rate above 0 makes one)"});
  // An untied head begins as the embedding, a new correction bias as zeros.
  EXPECT_EQ(problems("qwen3", [](ModelConfig& c) { c.tie_embeddings = false; }), Lines{});
  EXPECT_EQ(problems("qwen3_moe", [](ModelConfig& c) { c.moe->has_correction_bias = true; }), Lines{});
}

}  // namespace
}  // namespace hysparse
