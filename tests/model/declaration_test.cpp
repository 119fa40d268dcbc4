#include "model/declaration.h"

#include <gtest/gtest.h>

#include "model/parameter_set.h"
#include "tests/core/gradient_check.h"

namespace hysparse {
namespace {

/// The 80b-a3b preset of the paper: 49 layers at 1:11, 512 experts, 8 active.
ModelConfig eighty_billion() {
  ModelConfig c;
  c.layer_types = layer_types_from_ratio(49, 11, LayerType::sparse_attention);
  c.vocab_size = 151936;
  c.hidden_size = 2048;
  c.num_heads = 64;
  c.num_kv_heads = 4;
  c.head_dim = 128;
  c.sliding_window = 128;
  c.sparse_block_size = 64;
  c.sparse_topk_tokens = 1024;
  c.moe = MoeConfig{.num_experts = 512, .top_k = 8, .intermediate_size = 512};
  return c;
}

ModelConfig small_moe() {
  ModelConfig c;
  c.layer_types = layer_types_from_ratio(5, 3, LayerType::sparse_attention);
  c.vocab_size = 64;
  c.hidden_size = 32;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 8;
  c.intermediate_size = 24;
  c.moe =
      MoeConfig{.num_experts = 8, .top_k = 2, .intermediate_size = 12, .shared_experts = 1, .first_k_dense = 1};
  return c;
}

bool declared(const ModelConfig& config, const std::string& name) {
  for (const ParameterDeclaration& d : declare_parameters(config, {})) {
    if (d.name == name) return true;
  }
  return false;
}

TEST(Counts, OfTheLargePresetAreThePapers) {
  const ParameterCounts counts = count_parameters(eighty_billion());
  EXPECT_NEAR(static_cast<double>(counts.experts), 78.9e9, 0.05e9);
  EXPECT_NEAR(static_cast<double>(counts.active), 3.35e9, 0.02e9);
  ModelConfig elementwise = eighty_billion();
  elementwise.attention_gate = GateKind::elementwise;
  EXPECT_NEAR(static_cast<double>(count_parameters(elementwise).active), 4.8e9, 0.05e9);
}

TEST(Counts, TheEmbeddingIsActiveOnlyWhenItIsTheHead) {
  ModelConfig c = small_moe();
  const ParameterCounts apart = count_parameters(c);
  c.tie_embeddings = true;
  const ParameterCounts tied = count_parameters(c);
  EXPECT_EQ(apart.total - tied.total, c.vocab_size * c.hidden_size);
  EXPECT_EQ(apart.active, tied.active);
}

TEST(Declarations, FollowTheVariant) {
  ModelConfig c = small_moe();
  const std::string sparse = "model.layers.1.self_attn.";
  EXPECT_TRUE(declared(c, sparse + "k_proj.weight"));
  EXPECT_TRUE(declared(c, sparse + "window_sinks"));
  c.share_kv_window = true;  // both branches read the oracle: no keys of its own
  EXPECT_FALSE(declared(c, sparse + "k_proj.weight"));
  EXPECT_FALSE(declared(c, sparse + "k_norm.weight"));
  c = small_moe();
  c.sparse_window_branch = false;
  for (const char* name :
       {"k_proj.weight", "v_proj.weight", "k_norm.weight", "window_gate_proj.weight", "window_sinks"}) {
    EXPECT_FALSE(declared(c, sparse + name)) << name;
  }
  c.share_kv = false;  // the sparse branch reads its own
  EXPECT_TRUE(declared(c, sparse + "k_proj.weight"));
  EXPECT_FALSE(declared(c, "model.layers.0.self_attn.gate_proj.weight"));
  c.full_attention_gate = GateKind::elementwise;
  EXPECT_TRUE(declared(c, "model.layers.0.self_attn.gate_proj.weight"));
}

TEST(InitialValues, DoNotDependOnTheLayout) {
  const ModelConfig c = small_moe();
  ParameterSet whole(c, Mesh(MeshConfig{}, 1), 0, DType::f64, false);
  whole.initialize(7);
  const Mesh mesh(MeshConfig{.ep = 4}, 4);
  for (int rank = 0; rank < 4; ++rank) {
    ParameterSet part(c, mesh, rank, DType::f64, false);
    part.initialize(7);
    for (const ParameterSet::Entry& e : part.entries()) {
      Tensor expected = whole.get(e.declaration.name).value;
      if (e.declaration.stacked_experts) expected = expected.slice(2 * rank, 2 * rank + 2);
      EXPECT_EQ(e.parameter.value.to_vector<double>(), expected.to_vector<double>()) << e.declaration.name;
    }
  }
}

TEST(InitialValues, HaveTheDeclaredSpread) {
  const ModelConfig c = small_moe();
  ParameterSet set(c, Mesh(MeshConfig{}, 1), 0, DType::f64, false);
  set.initialize(3);
  const auto spread = [&](const std::string& name) {
    double squares = 0;
    const std::vector<double> values = set.get(name).value.to_vector<double>();
    for (const double v : values) squares += v * v;
    return std::sqrt(squares / static_cast<double>(values.size()));
  };
  // n = 1024 and 3072 draws: relative standard error of the spread 1 / sqrt(2n), 2.2 % and 1.3 %; five of them
  // allowed.
  EXPECT_NEAR(spread("model.layers.0.self_attn.q_proj.weight"), c.init_std, 0.11 * c.init_std);
  const double residual = c.init_std / std::sqrt(2.0 * 5);
  EXPECT_NEAR(spread("model.layers.2.mlp.experts.down_proj.weight"), residual, 0.065 * residual);
  EXPECT_EQ(spread("model.norm.weight"), 1.0);
  EXPECT_EQ(spread("model.layers.1.self_attn.sparse_sinks"), 0.0);
}

TEST(Flops, CountActiveParametersAndVisibleKeys) {
  ModelConfig c = small_moe();
  c.moe.reset();
  const double parameters = 6.0 * static_cast<double>(count_parameters(c).active);
  const double per_key = 12.0 * 4 * 8;
  // T = 4: a full layer sees (1 + 2 + 3 + 4) / 4 = 2.5 keys; W = 2: (1 + 2 + 2 + 2) / 4; top-k of 64 tokens:
  // all.
  c.sliding_window = 2;
  EXPECT_DOUBLE_EQ(model_flops_per_token(c, 4), parameters + per_key * (2 * 2.5 + 3 * (2.5 + 1.75)));
}

}  // namespace
}  // namespace hysparse
