// Document masks over whole models: a packed batch is its documents one by one.
#include <gtest/gtest.h>

#include "core/thread_pool.h"
#include "tests/core/gradient_check.h"
#include "tests/model/documents_case.h"

namespace hysparse::testing {
namespace {

/// Mean losses and, by parameter, their gradients: the same sums in other tiles. Measured: below 1e-14.
constexpr double tolerance = 1e-10;

struct Outcome {
  double loss = 0;  // mean over targets
  std::vector<std::string> names;
  std::vector<Tensor> gradients;
};

/// The token-weighted mean over `batches`.
Outcome train(const ModelConfig& c, const std::vector<MicroBatch>& batches) {
  TestStream stream;
  ParameterSet parameters(c, Mesh(MeshConfig{}, 1), 0, DType::f64, true);
  parameters.initialize(7);
  const Model model(c, parameters);
  std::int64_t targets = 0;
  for (const MicroBatch& batch : batches) targets += count_targets(batch);
  Outcome outcome;
  for (const MicroBatch& batch : batches) {
    Tape tape(stream);
    const LossResult result = model.loss(tape, batch);
    const std::vector<Tape::Root> roots{{result.loss_sum, 1.0 / static_cast<double>(targets)}};
    tape.backward(roots);
    outcome.loss += result.loss.data<double>()[0] / static_cast<double>(targets);
  }
  for (const ParameterSet::Entry& entry : parameters.entries()) {
    if (!entry.declaration.trainable) continue;
    outcome.names.push_back(entry.declaration.name);
    outcome.gradients.push_back(entry.parameter.grad.clone());
  }
  return outcome;
}

/// Every document of a batch as a batch of its own, without masks.
std::vector<MicroBatch> alone(const MicroBatch& packed, const std::vector<std::int64_t>& lengths) {
  std::vector<MicroBatch> batches;
  for (std::int64_t at = 0; at < packed.tokens.numel();) {
    for (const std::int64_t length : lengths) {
      batches.push_back(
          {packed.tokens.slice(at, at + length), packed.targets.slice(at, at + length), 1, length});
      at += length;
    }
  }
  return batches;
}

void expect_packed_is_alone(const ModelConfig& c, const std::vector<std::int64_t>& lengths) {
  const MicroBatch packed = packed_batch(2, lengths);
  const Outcome got = train(c, {packed}), expected = train(c, alone(packed, lengths));
  EXPECT_NEAR(got.loss, expected.loss, tolerance);
  ASSERT_EQ(got.names, expected.names);
  for (std::size_t i = 0; i < got.names.size(); ++i)
    EXPECT_LE(relative_error(got.gradients[i], expected.gradients[i]), tolerance) << got.names[i];
  // And the masks do something.
  MicroBatch unmasked = packed;
  unmasked.documents = {};
  EXPECT_GT(std::abs(train(c, {unmasked}).loss - expected.loss), 1e-3);
}

const std::vector<std::int64_t> anywhere{1, 37, 3, 50, 2, 35};  // starts on no grid
const std::vector<std::int64_t> on_blocks{8, 40, 16, 48, 16};   // starts at multiples of B

TEST(ModelDocuments, FullIsItsDocumentsAlone) {
  ModelConfig c = documents_config(LayerType::full_attention);
  expect_packed_is_alone(c, anywhere);
  c.full_attention_gate = GateKind::elementwise;
  c.use_qk_norm = false;
  c.rope_partial = 0.5;
  expect_packed_is_alone(c, anywhere);
}

TEST(ModelDocuments, HybridSwaIsItsDocumentsAlone) {
  expect_packed_is_alone(documents_config(LayerType::sliding_attention), anywhere);
}

TEST(ModelDocuments, HysparseIsItsDocumentsAloneWhereTheyStartWithABlock) {
  ModelConfig c = documents_config(LayerType::sparse_attention);
  expect_packed_is_alone(c, on_blocks);
  c.share_kv = false;
  expect_packed_is_alone(c, on_blocks);
  c.share_kv = c.share_kv_window = true;
  expect_packed_is_alone(c, on_blocks);
  c.num_heads = 8;  // as many heads per group as take tiles
  c.num_kv_heads = 1;
  expect_packed_is_alone(c, on_blocks);
}

TEST(ModelDocuments, HysparseIsItsDocumentsAloneWhereEveryBlockIsChosen) {
  ModelConfig c = documents_config(LayerType::sparse_attention);
  c.sparse_topk_tokens = 128;
  expect_packed_is_alone(c, anywhere);
}

/// Logits depend on differences of positions alone, so losses do not tell; the keys that a layer leaves do.
TEST(ModelDocuments, PositionsRestart) {
  const ModelConfig c = documents_config(LayerType::sparse_attention);
  TestStream stream;
  ParameterSet parameters(c, Mesh(MeshConfig{}, 1), 0, DType::f64, false);
  parameters.initialize(7);
  const Model model(c, parameters);
  const AttentionLayer& layer = model.layers()[0].attention;
  const auto keys = [&](const Tensor& x, const Sequences& sequences) {
    Tape tape(stream, {.recording = false});
    std::optional<Oracle> oracle;
    std::optional<BlockLists> chosen;
    layer.forward(tape, tape.constant(x), sequences, {}, true, oracle, chosen);
    return oracle->k.value;
  };
  std::int64_t seq_len = 0, at = 0;
  for (const std::int64_t length : anywhere) seq_len += length;
  const Tensor x = random_tensor({seq_len, c.hidden_size}, 73, "x");
  const Tensor packed = keys(x, {1, seq_len, documents_of_lengths(1, anywhere)});
  for (const std::int64_t length : anywhere) {
    EXPECT_LE(relative_error(packed.slice(at, at + length), keys(x.slice(at, at + length), {1, length})),
              1e-13);
    at += length;
  }
}

TEST(ModelDocuments, ExpertsSeeTokensAlone) {
  ModelConfig c = documents_config(LayerType::sparse_attention);
  c.moe = MoeConfig{.num_experts = 8, .top_k = 2, .intermediate_size = 32, .first_k_dense = 1};
  expect_packed_is_alone(c, on_blocks);
}

}  // namespace
}  // namespace hysparse::testing
