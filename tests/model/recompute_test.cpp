// Recomputation of a whole model: the same bits, less memory.
#include <cstring>

#include <gtest/gtest.h>

#include "core/random.h"
#include "core/thread_pool.h"
#include "model/model.h"
#include "tests/attention/documents.h"

namespace hysparse {
namespace {

/// Hybrid blocks, dense and expert layers, both auxiliary losses, a capacity that drops.
ModelConfig config() {
  ModelConfig c;
  c.layer_types = layer_types_from_ratio(9, 3, LayerType::sparse_attention);
  c.vocab_size = 64;
  c.hidden_size = 48;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.intermediate_size = 96;
  c.sliding_window = 16;
  c.sparse_block_size = 8;
  c.sparse_topk_tokens = 32;
  c.moe = MoeConfig{.num_experts = 8,
                    .top_k = 2,
                    .intermediate_size = 32,
                    .shared_experts = 1,
                    .first_k_dense = 1,
                    .aux_loss = 0.01,
                    .z_loss = 0.001,
                    .capacity_factor = 1.5};
  return c;
}

struct Outcome {
  Tensor loss;
  std::vector<Tensor> gradients;
  std::int64_t peak_bytes = 0;  // above what the parameters take
};

Outcome train(Recompute recompute, DType dtype, const Tensor& documents = {}) {
  ThreadPool pool(2);
  const Stream stream{Device{}, &pool, nullptr};
  const ModelConfig c = config();
  ParameterSet parameters(c, Mesh(MeshConfig{}, 1), 0, dtype, true);
  parameters.initialize(7);
  const Model model(c, parameters, {.recompute = recompute});

  MicroBatch batch{Tensor::empty({2 * 128}, DType::i32), Tensor::empty({2 * 128}, DType::i32), 2, 128,
                   documents};
  const CounterRandom random(11, "tokens");
  for (std::int64_t i = 0; i < batch.tokens.numel(); ++i) {
    const auto id = [&](std::int64_t n) {
      return static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(n), 64));
    };
    batch.tokens.data<std::int32_t>()[i] = id(i);
    batch.targets.data<std::int32_t>()[i] = id(i + 1);
  }

  reset_memory_peak();
  const std::int64_t before = memory_use().live_bytes;
  Outcome outcome;
  {
    Tape tape(stream);
    const LossResult result = model.loss(tape, batch);
    std::vector<Tape::Root> roots{{result.loss_sum, 1.0 / 256}};
    for (const Var& v : result.load_balance) roots.push_back({v, 0.01});
    for (const Var& v : result.z) roots.push_back({v, 0.001});
    EXPECT_EQ(result.load_balance.size(), 8u);
    EXPECT_EQ(result.loads.size(), 8u);
    tape.backward(roots);
    outcome.loss = result.loss;
  }
  outcome.peak_bytes = memory_use().peak_bytes - before;
  for (const ParameterSet::Entry& entry : parameters.entries())
    if (entry.declaration.trainable) outcome.gradients.push_back(entry.parameter.grad.clone());
  return outcome;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0;
}

void expect_same_bits(DType dtype, const Tensor& documents) {
  const Outcome none = train(Recompute::none, dtype, documents);
  for (const Recompute recompute : {Recompute::selective, Recompute::layer}) {
    const Outcome again = train(recompute, dtype, documents);
    EXPECT_TRUE(same_bits(again.loss, none.loss));
    ASSERT_EQ(again.gradients.size(), none.gradients.size());
    for (std::size_t i = 0; i < none.gradients.size(); ++i)
      EXPECT_TRUE(same_bits(again.gradients[i], none.gradients[i])) << "parameter " << i;
  }
}

TEST(ModelRecompute, GivesTheSameBits) {
  for (const DType dtype : {DType::f32, DType::f64}) expect_same_bits(dtype, {});
}

TEST(ModelRecompute, GivesTheSameBitsWithDocuments) {
  const Tensor documents = testing::random_documents(2, 128, 30);
  for (const DType dtype : {DType::f32, DType::f64}) expect_same_bits(dtype, documents);
}

TEST(ModelRecompute, TakesLessMemory) {
  const std::int64_t none = train(Recompute::none, DType::f32).peak_bytes;
  const std::int64_t selective = train(Recompute::selective, DType::f32).peak_bytes;
  const std::int64_t layer = train(Recompute::layer, DType::f32).peak_bytes;
  RecordProperty("none", std::to_string(none));
  RecordProperty("selective", std::to_string(selective));
  RecordProperty("layer", std::to_string(layer));
  // Kept of a layer by selective: two norms, two sums, two results; by layer: its two inputs.
  EXPECT_LT(selective, none / 2) << none;
  EXPECT_LT(layer, selective) << none;
}

}  // namespace
}  // namespace hysparse
