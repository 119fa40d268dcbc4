// step_traffic computes the table of docs/mesh.md: the page's formulas are evaluated for layouts of every kind,
// with the sizes of the real buffers. (tests/launch/traffic_test.cpp compares it with what runs count.)
#include "model/traffic.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "model/parameter_set.h"
#include "model/partition.h"
#include "tests/model/formula_table.h"

namespace hysparse::testing {
namespace {

/// Seven layers, of which the first is dense; one of each kind of attention, two blocks with followers.
ModelConfig moe_model() {
  using enum LayerType;
  ModelConfig c;
  c.layer_types = {sliding_attention, full_attention,   sparse_attention, full_attention,
                   full_attention,    sparse_attention, sparse_attention};
  c.vocab_size = 128;
  c.hidden_size = 48;
  c.num_heads = 8;
  c.num_kv_heads = 2;
  c.head_dim = 8;
  c.intermediate_size = 96;
  c.sparse_block_size = 4;
  c.sparse_topk_tokens = 12;
  c.tie_embeddings = true;
  c.moe = MoeConfig{.num_experts = 8,
                    .top_k = 3,
                    .intermediate_size = 32,
                    .shared_experts = 1,
                    .first_k_dense = 1,
                    .aux_loss = 0.01,
                    .balanced_routing = true};
  return c;
}

struct Case {
  ModelConfig model = moe_model();
  MeshConfig mesh;
  int world = 1;
  bool sequence_parallel = false;
  int virtual_stages = 1;
  TrainingStep step{.sequences = 2, .seq_len = 24, .micro_batches = 3, .dtype = DType::f64};

  Mesh on() const { return {mesh, world}; }
  ModelLayout layout() const {
    return {partition(model, step.seq_len, mesh.pp, virtual_stages), sequence_parallel};
  }
  TrafficTable traffic() const { return step_traffic(model, on(), layout(), step); }
};

/// What the formulas need of the ranks' buffers: b, P, eb, eP, E, Q, U.
void add_buffer_symbols(const Case& c, Symbols& symbols) {
  const Mesh mesh = c.on();
  for (const char* name : {"b", "P", "eb", "eP", "E", "Q", "U"}) symbols[name] = 0;
  const int stage_ranks = mesh.size(Axis::stage);
  for (int rank = 0; rank < mesh.world(); ++rank) {
    const ParameterSet parameters(c.model, mesh, rank, c.step.dtype, true, c.layout());
    double partial = 0;
    for (const FlatBuffer* buffer : parameters.buffers()) {
      const bool dense = buffer->kind() == MeshKind::dense;
      if (rank % stage_ranks == 0) {
        symbols[dense ? "b" : "eb"] += 1;
        symbols[dense ? "P" : "eP"] += static_cast<double>(buffer->numel());
      }
      if (rank == 0 && buffer->entries()[0].declared.placement.is_tied())
        symbols["E"] = static_cast<double>(buffer->numel());
      for (const FlatBuffer::Piece& piece : buffer->shard_pieces()) {
        const Placement& placement = buffer->entries()[piece.entry].declared.placement;
        if (placement.partial_axes(mesh).empty()) continue;
        ASSERT_EQ(placement.partial_axes(mesh), std::vector<Axis>{Axis::tp});
        const std::int64_t copies = placement.tp.sharded ? c.model.num_kv_heads : 1;
        partial += static_cast<double>((piece.end - piece.begin) * copies);
      }
    }
    symbols["Q"] += partial / mesh.size(Axis::tp);
    symbols["U"] += partial > 0 ? 1 : 0;
  }
}

Symbols symbols_of(const Case& c) {
  const Mesh mesh = c.on();
  const ModelConfig& m = c.model;
  const auto blocks = static_cast<double>((c.step.seq_len + m.sparse_block_size - 1) / m.sparse_block_size);
  Symbols symbols{{"w", mesh.world()},
                  {"q", mesh.world() / mesh.size(Axis::pp)},
                  {"s", c.step.dtype == DType::f64 ? 8 : 4},
                  {"m", c.step.micro_batches},
                  {"S", c.step.sequences},
                  {"n", c.step.sequences * c.step.seq_len},
                  {"r", c.step.recompute == Recompute::none ? 1 : 2},
                  {"c", mesh.size(Axis::pp) * c.virtual_stages},
                  {"L", m.num_layers()},
                  {"D", m.hidden_size},
                  {"N", blocks},
                  {"K", std::min(static_cast<double>(m.sparse_topk_tokens / m.sparse_block_size), blocks)}};
  for (const Axis axis : {Axis::tp, Axis::dp, Axis::ep, Axis::etp, Axis::edp})
    symbols[std::string(axis_name(axis))] = mesh.size(axis);
  for (std::int64_t i = 0; i < m.num_layers(); ++i) {
    symbols["M"] += m.is_moe(i) ? 1 : 0;
    symbols["F"] += !m.is_moe(i) || m.moe->shared_experts > 0 ? 1 : 0;
    symbols["O"] += m.feeds_followers(i) ? 1 : 0;
  }
  symbols["X"] = symbols["k"] = symbols["R"] = 0;
  if (m.moe) {
    symbols["X"] = static_cast<double>(m.moe->num_experts);
    symbols["k"] = static_cast<double>(m.moe->top_k);
    symbols["R"] = mesh.size(Axis::dp) * mesh.size(Axis::etp) *
                   static_cast<double>(balanced_rows(*m.moe, c.step, mesh.size(Axis::ep)));
  }
  add_buffer_symbols(c, symbols);
  return symbols;
}

/// "group operation: calls, bytes" lines.
std::string text_of(const TrafficTable& table) {
  std::string text;
  for (const auto& [group, operations] : table) {
    for (const auto& [operation, t] : operations)
      text += fmt::format("{} {}: {} calls, {} bytes\n", group, operation, t.calls, t.bytes);
  }
  return text;
}

class Formulas : public ::testing::Test {
 protected:
  void expect_equal(const Case& c) {
    const Mesh mesh = c.on();
    std::set<std::string> groups, conditions{c.sequence_parallel ? "sp" : "no sp"};
    for (const Axis axis :
         {Axis::tp, Axis::ep_etp, Axis::pp, Axis::stage, Axis::dp_cp, Axis::edp, Axis::world}) {
      if (mesh.size(axis) > 1) groups.emplace(axis_name(axis));
    }
    if (mesh.size(Axis::tp) > c.model.num_kv_heads) conditions.insert("tp above the groups");
    if (c.model.tie_embeddings) conditions.insert("tied");
    if (c.model.moe) conditions.insert("experts");
    if (c.model.moe && c.model.moe->aux_loss > 0) conditions.insert("aux_loss");
    if (c.model.moe && c.model.moe->capacity_factor > 0) conditions.insert("capacity_factor");
    for (const FormulaRow& row : rows_) met_.insert(conditions.contains(row.when) ? row.when : "");
    EXPECT_EQ(text_of(c.traffic()), text_of(evaluate_rows(rows_, symbols_of(c), conditions, groups)))
        << mesh.str();
  }

  std::vector<FormulaRow> rows_ = read_formulas(HYSPARSE_SOURCE_DIR "/docs/mesh.md");
  std::set<std::string> met_;  // conditions of rows
};

TEST_F(Formulas, OfTheDocumentationAreWhatIsComputed) {
  ASSERT_GE(rows_.size(), 26);
  expect_equal({});
  for (const int tp : {1, 2, 4, 8}) {
    for (const int pp : {1, 2, 3}) {
      for (const int dp : {1, 2}) {
        for (const bool sequence_parallel : {false, true}) {
          if (sequence_parallel && tp == 1) continue;
          Case c{.mesh = {.tp = tp, .pp = pp}, .world = tp * pp * dp, .sequence_parallel = sequence_parallel};
          c.step.recompute = dp == 1 ? Recompute::none : pp == 1 ? Recompute::layer : Recompute::selective;
          expect_equal(c);
          c.mesh.ep = std::min(8, tp * dp);
          expect_equal(c);
          c.mesh.etp = c.mesh.ep > 2 ? 2 : 1;
          c.mesh.ep /= c.mesh.etp;
          c.virtual_stages = pp == 2 ? 2 : 1;
          c.model.moe->capacity_factor = 0.7;
          c.model.moe->aux_loss = 0;
          c.model.moe->shared_experts = 0;
          c.model.tie_embeddings = false;
          c.step.dtype = DType::f32;
          if (!sequence_parallel) c.step.seq_len = 21;  // slices of unequal length
          expect_equal(c);
          c.model.moe.reset();
          c.mesh.ep = c.mesh.etp = 1;
          expect_equal(c);
        }
      }
    }
  }
  for (const FormulaRow& row : rows_) EXPECT_TRUE(met_.contains(row.when)) << row.when;
}

TEST(StepTraffic, OfOneRankIsNothing) {
  EXPECT_TRUE(Case{}.traffic().empty());
}

TEST(StepTraffic, OfRealRoutingLeavesOutTheExperts) {
  Case c{.mesh = {.tp = 2, .ep = 4}, .world = 4};
  TrafficTable all = c.traffic();
  EXPECT_EQ(all.erase("ep_etp"), 1);
  c.model.moe->balanced_routing = false;
  EXPECT_EQ(text_of(c.traffic()), text_of(all));
}

TEST(StepTraffic, RecomputationRepeatsForwardButNotTheOraclesChoice) {
  Case c{.mesh = {.tp = 4}, .world = 4};
  const TrafficTable once = c.traffic();
  c.step.recompute = Recompute::layer;
  TrafficTable twice = c.traffic();
  EXPECT_EQ(twice["tp"]["all_to_all"], once.at("tp").at("all_to_all"));
  // 7 attentions, 7 SwiGLUs and the counts of 6 layers, on 4 ranks in 3 micro-batches.
  EXPECT_EQ(twice["tp"]["all_reduce"].calls - once.at("tp").at("all_reduce").calls, (7 + 7 + 6) * 4 * 3);
  c.step.recompute = Recompute::selective;
  EXPECT_EQ(text_of(c.traffic()), text_of(twice));
}

TEST(BalancedRows, AreTheDifferentOwnersOfEachToken) {
  const TrainingStep step{.sequences = 1, .seq_len = 4};
  MoeConfig moe{.num_experts = 4, .top_k = 2};
  // Experts 0 1, 2 3, 0 1, 2 3: on two ranks one owner each, on four two.
  EXPECT_EQ(balanced_rows(moe, step, 1), 4);
  EXPECT_EQ(balanced_rows(moe, step, 2), 4);
  EXPECT_EQ(balanced_rows(moe, step, 4), 8);
  moe.top_k = 3;  // 0 1 2, 3 0 1, 2 3 0, 1 2 3 over {0 1}, {2 3}
  EXPECT_EQ(balanced_rows(moe, step, 2), 8);
  moe.capacity_factor = 0.5;  // two of each expert: the third token keeps 2 and 3, the last none
  EXPECT_EQ(balanced_rows(moe, step, 2), 2 + 2 + 1 + 0);
}

}  // namespace
}  // namespace hysparse::testing
