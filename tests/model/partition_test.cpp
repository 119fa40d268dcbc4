// Where layers may be cut, what they cost, and that the partition found is the best of all.
#include "model/partition.h"

#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>

#include "core/error.h"
#include "model/declaration.h"

namespace hysparse {
namespace {

using enum LayerType;
using Ranges = std::vector<ChunkRange>;

ModelConfig with_layers(std::vector<LayerType> types) {
  ModelConfig c;
  c.layer_types = std::move(types);
  return c;
}

/// 49 layers at 1:11, the sizes of the large preset.
ModelConfig eighty_billion() {
  ModelConfig c = with_layers(layer_types_from_ratio(49, 11, sparse_attention));
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

Ranges singles(std::int64_t layers) {
  Ranges r;
  for (std::int64_t i = 0; i < layers; ++i) r.push_back({i, i + 1});
  return r;
}

/// {dearest chunk, sum of squares} in FLOPs.
std::pair<double, double> rating(const ModelConfig& config, std::int64_t seq_len, const Ranges& chunks) {
  const std::vector<double> flops = chunk_flops(config, seq_len, chunks);
  return {*std::max_element(flops.begin(), flops.end()),
          std::inner_product(flops.begin(), flops.end(), flops.begin(), 0.0)};
}

/// Every way to cut the atoms into `chunks` runs.
void for_each_partition(const Ranges& atoms, std::size_t chunks,
                        const std::function<void(const Ranges&)>& visit, std::size_t begin = 0,
                        Ranges so_far = {}) {
  if (chunks == 0) {
    if (begin == atoms.size()) visit(so_far);
    return;
  }
  for (std::size_t end = begin + 1; end + chunks - 1 <= atoms.size(); ++end) {
    Ranges next = so_far;
    next.push_back({atoms[begin].first_layer, atoms[end - 1].last_layer});
    for_each_partition(atoms, chunks - 1, visit, end, next);
  }
}

/// Costs are compared in units of 2^-30 of the model, each atom rounded: relative to a chunk of at least 1 % of
/// the model, with up to 20 atoms, below 1e-6.
constexpr double rounding = 1e-6;

void expect_best(const ModelConfig& config, std::int64_t seq_len, int stages, int virtual_stages) {
  const Ranges atoms = hybrid_atoms(config), found = partition(config, seq_len, stages, virtual_stages);
  ASSERT_EQ(found.size(), static_cast<std::size_t>(stages * virtual_stages));
  const auto [dearest, squares] = rating(config, seq_len, found);
  bool seen = false;
  for_each_partition(atoms, found.size(), [&](const Ranges& other) {
    seen = seen || other == found;
    const auto [other_dearest, other_squares] = rating(config, seq_len, other);
    EXPECT_LE(dearest, other_dearest * (1 + rounding));
    if (other_dearest <= dearest) {
      EXPECT_LE(squares, other_squares * (1 + rounding));
    }
  });
  EXPECT_TRUE(seen);  // whole atoms, in order, all of them
}

TEST(Atoms, FullLayersKeepTheirSparseFollowers) {
  EXPECT_EQ(hybrid_atoms(with_layers(layer_types_from_ratio(9, 3, sparse_attention))),
            (Ranges{{0, 4}, {4, 8}, {8, 9}}));
  EXPECT_EQ(hybrid_atoms(eighty_billion()), (Ranges{{0, 12}, {12, 24}, {24, 36}, {36, 48}, {48, 49}}));
}

TEST(Atoms, OtherLayersAreTheirOwn) {
  EXPECT_EQ(hybrid_atoms(with_layers(std::vector<LayerType>(5, full_attention))), singles(5));
  EXPECT_EQ(hybrid_atoms(with_layers(layer_types_from_ratio(9, 3, sliding_attention))), singles(9));
  EXPECT_EQ(hybrid_atoms(with_layers({sliding_attention})), singles(1));
}

TEST(Atoms, SlidingLayersStayOnlyInsideABlock) {
  const Ranges expected{{0, 1}, {1, 2}, {2, 6}, {6, 7}, {7, 8}, {8, 9}, {9, 11}};
  EXPECT_EQ(hybrid_atoms(with_layers({sliding_attention, sliding_attention,                                   //
                                      full_attention, sparse_attention, sliding_attention, sparse_attention,  //
                                      sliding_attention,                                                      //
                                      full_attention, sliding_attention,                                      //
                                      full_attention, sparse_attention})),
            expected);
}

// The layers' costs and the head's add up to the figure that the metrics use, which counts the declared
// parameters: all weights but the vectors (norms, sinks, the routers' correction bias), which partition leaves
// out.
TEST(Costs, AddUpToTheModels) {
  ModelConfig dense = with_layers({full_attention, sparse_attention, sliding_attention, full_attention});
  dense.full_attention_gate = GateKind::elementwise;
  ModelConfig own_kv = dense;
  own_kv.share_kv = false;
  own_kv.attention_gate = GateKind::elementwise;
  ModelConfig bare = dense;
  bare.share_kv_window = true;
  bare.sparse_window_branch = false;
  bare.attention_gate = GateKind::none;
  ModelConfig moe = dense;
  moe.moe = MoeConfig{.shared_experts = 2, .first_k_dense = 1};
  for (const ModelConfig& c : {dense, own_kv, bare, moe, eighty_billion()}) {
    std::int64_t vectors = 0;
    for (const ParameterDeclaration& d : declare_parameters(c, {})) {
      if (d.shape.rank() == 1) vectors += d.shape.numel();
    }
    for (const std::int64_t seq_len : {1, 40, 200, 32768}) {
      double sum = head_flops(c);
      for (std::int64_t i = 0; i < c.num_layers(); ++i) sum += layer_flops(c, i, seq_len);
      const double expected = model_flops_per_token(c, seq_len) - 6.0 * static_cast<double>(vectors);
      EXPECT_NEAR(sum / expected, 1.0, 1e-12);
    }
  }
}

TEST(Costs, OfAttentionFollowTheSequence) {
  const ModelConfig c = eighty_billion();
  // A full layer costs about as much as its sparse neighbour on short windows and far more on long ones.
  EXPECT_LT(layer_flops(c, 0, 256) / layer_flops(c, 1, 256), 1.2);
  EXPECT_GT(layer_flops(c, 0, 32768) / layer_flops(c, 1, 32768), 4.0);
}

TEST(Partition, IsTheBestOfAll) {
  ModelConfig mixed =
      with_layers({sliding_attention, sliding_attention, full_attention, sparse_attention, sparse_attention,
                   sliding_attention, full_attention, sparse_attention, full_attention, full_attention});
  mixed.moe = MoeConfig{.first_k_dense = 3};
  const ModelConfig configs[] = {
      mixed,
      with_layers(std::vector<LayerType>(10, full_attention)),
      with_layers(layer_types_from_ratio(12, 3, sliding_attention)),
      with_layers(layer_types_from_ratio(25, 3, sparse_attention)),
      eighty_billion(),
  };
  for (const ModelConfig& c : configs) {
    const auto atoms = static_cast<int>(hybrid_atoms(c).size());
    for (const std::int64_t seq_len : {64, 4096}) {
      for (int stages = 1; stages <= atoms; ++stages) {
        for (int chunks = 1; stages * chunks <= atoms; ++chunks) expect_best(c, seq_len, stages, chunks);
      }
    }
  }
}

TEST(Partition, TiesGiveEarlyChunksFewerLayers) {
  ModelConfig c = with_layers(std::vector<LayerType>(10, full_attention));
  c.vocab_size = 1;  // a head that costs next to nothing, as the embedding does
  // The first chunk carries the embedding, the last the head, which is a little dearer: 3 layers in the middle.
  EXPECT_EQ(partition(c, 64, 4, 1), (Ranges{{0, 2}, {2, 5}, {5, 8}, {8, 10}}));
  EXPECT_EQ(partition(c, 64, 2, 2), partition(c, 64, 4, 1));
  EXPECT_EQ(partition(c, 64, 1, 1), (Ranges{{0, 10}}));
  EXPECT_EQ(partition(c, 64, 10, 1), singles(10));
}

TEST(Partition, OfTheLargePresetOverItsStages) {
  const ModelConfig c = eighty_billion();
  // At 32768 tokens a block costs 7.3 GFLOPs a token, the closing full layer 2.0 and the head 1.9.
  EXPECT_EQ(partition(c, 32768, 2, 1), (Ranges{{0, 24}, {24, 49}}));
  EXPECT_EQ(partition(c, 32768, 3, 1), (Ranges{{0, 12}, {12, 36}, {36, 49}}));
  EXPECT_EQ(partition(c, 32768, 4, 1), (Ranges{{0, 12}, {12, 24}, {24, 36}, {36, 49}}));
  EXPECT_EQ(partition(c, 32768, 5, 1), hybrid_atoms(c));
}

TEST(Partition, ADearHeadGetsFewerLayers) {
  ModelConfig c = with_layers(std::vector<LayerType>(8, full_attention));
  c.vocab_size = 1 << 16;
  const Ranges chunks = partition(c, 64, 2, 1);
  EXPECT_EQ(chunks, (Ranges{{0, 7}, {7, 8}}));
}

std::string problem(const ModelConfig& config, int stages, int virtual_stages) {
  try {
    partition(config, 64, stages, virtual_stages);
  } catch (const Error& e) {
    return e.what();
  }
  return "none";
}

TEST(Partition, TooManyStagesNameTheSizesThatWork) {
  const ModelConfig c = eighty_billion();
  EXPECT_EQ(problem(c, 6, 1),
            "parallel.pp: 6: 6 chunks of layers, but the model has only 5 parts to place (a full layer and the "
            "sparse layers that read its oracle stay together): parallel.pp may be 1 to 5");
  EXPECT_EQ(
      problem(c, 2, 3),
      "parallel.pp: 2 with parallel.virtual_stages: 3: 6 chunks of layers, but the model has only 5 parts to "
      "place (a full layer and the sparse layers that read its oracle stay together): parallel.pp may be 1 "
      "with parallel.virtual_stages: 3; or parallel.virtual_stages may be 1 to 2 with parallel.pp: 2; or "
      "parallel.pp may be 1 to 5 with parallel.virtual_stages: 1");
  EXPECT_EQ(problem(with_layers({full_attention}), 2, 1),
            "parallel.pp: 2: 2 chunks of layers, but the model has only 1 part to place (a full layer and the "
            "sparse layers that read its oracle stay together): parallel.pp may be 1");
  EXPECT_EQ(problem(c, 5, 1), "none");
}

}  // namespace
}  // namespace hysparse
