// Embedding, head and cross-entropy with the vocabulary over tp, against the core ops on one rank.
#include "parallel/vocabulary.h"

#include <cmath>
#include <numeric>

#include "core/ops/embedding.h"
#include "core/ops/scalar.h"
#include "tests/core/gradient_check.h"
#include "tests/core/random_targets.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse::testing {
namespace {

/// Sums of a few hundred terms of size one in another order.
constexpr double tolerance = 1e-12;
constexpr std::int64_t hidden_size = 5, vocabulary = 24;  // divides by every number of ranks

std::unique_ptr<Communicator> world_group() {
  std::vector<int> ranks(static_cast<std::size_t>(runtime().world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return runtime().communicator("tp", ranks);
}

Tensor shard_of(const Tensor& whole, const TensorParallel& tp) {
  const std::int64_t part = whole.dim(0) / tp.size();
  return whole.slice(part * tp.rank(), part * (tp.rank() + 1));
}

Parameter shard_of(const Parameter& whole, const TensorParallel& tp) {
  const Tensor value = shard_of(whole.value, tp);
  return {whole.name, value, Tensor::zeros(value.shape(), value.dtype())};
}

/// This rank's rows of a tensor in the residual stream.
Tensor stream_rows(const Tensor& whole, const TensorParallel& tp) {
  if (!tp.sequence_parallel()) return whole;
  const TokenSlice own = tp.slice(whole.dim(0));
  return whole.slice(own.begin, own.end);
}

/// i32 [tokens]: ids of every shard; of the last rank's alone with `last`.
Tensor some_ids(std::int64_t tokens, bool last) {
  const Tensor ids = random_targets(tokens, vocabulary);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::int32_t& id = ids.data<std::int32_t>()[t];
    id = last ? static_cast<std::int32_t>(vocabulary - 1 - t % 2) : std::abs(id);
  }
  return ids;
}

/// Runs body(tp, tokens) for both layouts and the token counts that they take.
template <class F>
void for_each_layout(Communicator& group, F&& body) {
  for (const bool sequence_parallel : {false, true}) {
    for (const std::int64_t tokens : {0, 1, 7, 12, 96}) {
      if (sequence_parallel && tokens % group.size() != 0) continue;
      SCOPED_TRACE(fmt::format("sp {} tokens {}", sequence_parallel, tokens));
      body(TensorParallel(group, sequence_parallel), tokens);
    }
  }
}

TEST(Vocabulary, EmbeddingIsThatOfOneRank) {
  const auto group = world_group();
  for_each_layout(*group, [&](const TensorParallel& tp, std::int64_t tokens) {
    for (const bool last : {false, true}) {
      Parameter whole = random_parameter({vocabulary, hidden_size}, 1, "model.embed_tokens.weight");
      Parameter mine = shard_of(whole, tp);
      const Tensor ids = some_ids(tokens, last), dy = random_tensor({tokens, hidden_size}, 1, "dy");
      TestStream stream;
      Tape one(stream), tape(stream);
      const Var expected = embedding(one, ids, whole);
      one.backward(expected, dy.clone());
      const Var y = vocabulary_embedding(tape, ids, mine, tp);
      tape.backward(y, stream_rows(dy, tp).clone());
      // Sums with zeros: the same bits.
      EXPECT_EQ(y.value.to_vector<double>(), stream_rows(expected.value, tp).to_vector<double>());
      EXPECT_EQ(mine.grad.to_vector<double>(), shard_of(whole.grad, tp).to_vector<double>());
    }
  });
}

struct Loss {
  CrossEntropy ce;
  Tensor dx;
};

/// Backward starts from 0.37 of the sum.
Loss run(const Tensor& x, Parameter& head, const Tensor& targets, const TensorParallel* tp) {
  TestStream stream;
  Tape tape(stream);
  const Var input = tape.input(x);
  Loss loss{tp != nullptr ? vocabulary_cross_entropy(tape, input, head, targets, *tp)
                          : linear_cross_entropy(tape, input, head, targets),
            {}};
  const Tape::Root root{loss.ce.loss_sum, 0.37};
  tape.backward({&root, 1});
  loss.dx = input.grad->value();
  return loss;
}

void expect_like_one_rank(const TensorParallel& tp, const Tensor& x, Parameter whole, const Tensor& targets,
                          double bound) {
  Parameter mine = shard_of(whole, tp);
  whole.grad.zero_();
  const Loss expected = run(x, whole, targets, nullptr);
  const Loss got = run(stream_rows(x, tp).clone(), mine, targets, &tp);
  const double loss = scalar_value(got.ce.loss), expected_loss = scalar_value(expected.ce.loss);
  EXPECT_LE(std::abs(loss - expected_loss), bound * std::abs(expected_loss));
  EXPECT_LE(relative_error(got.ce.loss_sum.value, expected.ce.loss_sum.value), bound);
  EXPECT_LE(relative_error(got.dx, stream_rows(expected.dx, tp)), bound);
  EXPECT_LE(relative_error(mine.grad, shard_of(whole.grad, tp)), bound);
  if (tp.group() == nullptr) {
    EXPECT_EQ(loss, expected_loss);
    return;
  }
  const Tensor first = Tensor::from<double>({loss}, {1});
  tp.group()->broadcast(first, 0);
  EXPECT_EQ(*first.data<double>(), loss) << "the ranks' losses differ";
}

TEST(Vocabulary, CrossEntropyIsThatOfOneRank) {
  const auto group = world_group();
  for_each_layout(*group, [&](const TensorParallel& tp, std::int64_t tokens) {
    const Tensor x = random_tensor({tokens, hidden_size}, 1, "x");
    const Parameter head = random_parameter({vocabulary, hidden_size}, 1, "lm_head.weight");
    const Tensor ignored = Tensor::empty({tokens}, DType::i32);
    std::fill_n(ignored.data<std::int32_t>(), tokens, -1);
    // Every shard with some ignored; the last shard alone; all ignored.
    for (const Tensor& targets : {random_targets(tokens, vocabulary), some_ids(tokens, true), ignored}) {
      expect_like_one_rank(tp, x, head, targets, tolerance);
    }
  });
}

/// Logits far apart: one shard holds all of the probability.
TEST(Vocabulary, CrossEntropyWithLogitsOfOneShardFarAbove) {
  const auto group = world_group();
  for_each_layout(*group, [&](const TensorParallel& tp, std::int64_t tokens) {
    const Tensor x = random_tensor({tokens, hidden_size}, 1, "x", 40.0);
    const Parameter head = random_parameter({vocabulary, hidden_size}, 1, "lm_head.weight", 10.0);
    expect_like_one_rank(tp, x, head, random_targets(tokens, vocabulary), tolerance);
  });
}

/// 300 tokens of 24000 ids take several chunks on one rank and on four.
TEST(Vocabulary, CrossEntropyOverSeveralChunks) {
  const auto group = world_group();
  const std::int64_t tokens = 300, many = 24000;
  const Tensor x = random_tensor({tokens, hidden_size}, 1, "x");
  const Parameter head = random_parameter({many, hidden_size}, 1, "lm_head.weight");
  for (const bool sequence_parallel : {false, true}) {
    expect_like_one_rank(TensorParallel(*group, sequence_parallel), x, head, random_targets(tokens, many),
                         tolerance);
  }
}

TEST(Vocabulary, CrossEntropyInF32) {
  const auto group = world_group();
  const std::int64_t tokens = 120;
  const Tensor x = random_tensor({tokens, hidden_size}, 1, "x", 1.0, DType::f32);
  const Parameter head = random_parameter({vocabulary, hidden_size}, 1, "lm_head.weight", 1.0, DType::f32);
  // Logits, probabilities and sums of 120 tokens, each to 6e-8.
  for (const bool sequence_parallel : {false, true}) {
    expect_like_one_rank(TensorParallel(*group, sequence_parallel), x, head, random_targets(tokens, vocabulary),
                         1e-6);
  }
}

/// One table for both ends: its gradient is the sum of the two.
TEST(Vocabulary, TiedTable) {
  const auto group = world_group();
  for_each_layout(*group, [&](const TensorParallel& tp, std::int64_t tokens) {
    Parameter whole = random_parameter({vocabulary, hidden_size}, 1, "model.embed_tokens.weight");
    Parameter mine = shard_of(whole, tp);
    const Tensor ids = some_ids(tokens, false), targets = random_targets(tokens, vocabulary);
    TestStream stream;
    Tape one(stream), tape(stream);
    const Tape::Root expected{linear_cross_entropy(one, embedding(one, ids, whole), whole, targets).loss_sum};
    one.backward({&expected, 1});
    const Tape::Root got{
        vocabulary_cross_entropy(tape, vocabulary_embedding(tape, ids, mine, tp), mine, targets, tp).loss_sum};
    tape.backward({&got, 1});
    EXPECT_LE(relative_error(mine.grad, shard_of(whole.grad, tp)), tolerance);
  });
}

template <class F>
std::string message_of(F&& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing thrown";
}

TEST(Vocabulary, RefusesForeignIdsInTheWordsOfOneRank) {
  const auto group = world_group();
  const TensorParallel tp(*group, false);
  const Parameter whole = random_parameter({vocabulary, hidden_size}, 1, "lm_head.weight");
  const Parameter mine = shard_of(whole, tp);
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.constant(random_tensor({2, hidden_size}, 1, "x"));
  for (const std::int32_t foreign : {-1, static_cast<int>(vocabulary), 1 << 30}) {
    const Tensor ids = Tensor::from<std::int32_t>({0, foreign}, {2});
    EXPECT_EQ(message_of([&] { vocabulary_embedding(tape, ids, mine, tp); }),
              message_of([&] { embedding(tape, ids, whole); }));
    EXPECT_EQ(message_of([&] { vocabulary_cross_entropy(tape, x, mine, ids, tp); }),
              message_of([&] { linear_cross_entropy(tape, x, whole, ids); }));
  }
  EXPECT_EQ(message_of([&] { vocabulary_embedding(tape, Tensor::from<std::int32_t>({24}, {1}), mine, tp); }),
            "token 0 has id 24; the vocabulary of lm_head.weight has ids 0 to 23");
}

/// Forward: two doubles per token, gathered, and nothing that grows with the vocabulary.
TEST(Vocabulary, Traffic) {
  const auto group = world_group();
  if (group->size() == 1) return;  // alone, nothing is sent
  const TensorParallel tp(*group, false);
  const std::int64_t tokens = 12;
  Parameter mine = shard_of(random_parameter({vocabulary, hidden_size}, 1, "lm_head.weight"), tp);
  run(random_tensor({tokens, hidden_size}, 1, "x"), mine, random_targets(tokens, vocabulary), &tp);
  EXPECT_EQ(group->traffic().at("all_gather").calls, 1);
  EXPECT_EQ(group->traffic().at("all_gather").bytes, tokens * 16);
  EXPECT_EQ(group->traffic().at("all_reduce").calls, 1);
  EXPECT_EQ(group->traffic().at("all_reduce").bytes, tokens * hidden_size * 8);
}

}  // namespace
}  // namespace hysparse::testing
