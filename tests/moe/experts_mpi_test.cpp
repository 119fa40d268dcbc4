// Experts spread over ranks against the same experts on one: every rank works out the whole problem alone, then
// its share with the others, in every layout of the ranks.
#include "tests/moe/moe_ranks.h"

namespace hysparse::testing {
namespace {

constexpr double tolerance = 1e-12;
constexpr std::int64_t experts = 12, hidden_size = 5, width = 12;  // divisible by 2, 3 and 4

struct Result {
  Tensor y, dx, dweights;
};

/// Forward and backward of tokens x with their routing and dy; gradients of weights add to moe's. Not `wanted`:
/// neither x nor its weights get a gradient.
Result run(const MoeCase& moe, const Tensor& x, const Tensor& ids, const Tensor& weights, const Tensor& dy,
           Communicator& group, int etp, bool apart, bool wanted = true) {
  TestStream stream;
  Tape tape(stream);
  Routing routing = make_routing(ids, experts);
  routing.weights = wanted ? tape.input(weights) : tape.constant(weights);
  const Var input = wanted ? tape.input(x) : tape.constant(x);
  const Var y = moe_experts(tape, input, routing, moe.weights(), experts, group, etp);
  if (apart) {
    const Var sum = tape.output(Tensor::zeros({1}, x.dtype()), {y});
    tape.record("objective", {sum}, [&] { y.grad->accumulate(stream, dy.clone()); });
    const Tape::Root root{sum, 1.0};
    tape.backward_inputs({&root, 1});
    tape.backward_weights();
  } else {
    tape.backward(y, dy.clone());
  }
  if (!wanted) return {y.value, {}, {}};
  return {y.value, input.grad->value(), routing.weights.grad->value()};
}

/// tokens[r] are on rank r; ids [sum of tokens, k].
void expect_like_one_rank(const std::vector<std::int64_t>& tokens, const Tensor& ids, DType dtype = DType::f64,
                          double bound = tolerance) {
  const int rank = runtime().rank();
  const auto alone = local_communicator("ep");
  const std::int64_t total = sum_of(tokens);
  const std::int64_t begin = std::accumulate(tokens.begin(), tokens.begin() + rank, std::int64_t{0});
  const std::int64_t end = begin + tokens[static_cast<std::size_t>(rank)];
  ASSERT_EQ(ids.dim(0), total);
  const Tensor x = random_tensor({total, hidden_size}, 1, "x", 1.0, dtype),
               dy = random_tensor({total, hidden_size}, 1, "dy", 1.0, dtype);
  const Tensor weights = make_routing(ids, experts, dtype).weights.value;
  const MoeCase whole(experts, hidden_size, width, dtype);
  const Result expected = run(whole, x, ids, weights, dy, *alone, 1, false);

  for (const ExpertLayout& layout : expert_layouts()) {
    SCOPED_TRACE(layout.str());
    const ExpertRanks ranks(layout);
    for (const bool apart : {false, true}) {
      const MoeCase mine = ranks.part_of(whole);
      const Result got = run(mine, x.slice(begin, end), ids.slice(begin, end), weights.slice(begin, end),
                             dy.slice(begin, end), *ranks.experts, layout.etp, apart);
      EXPECT_LE(relative_error(got.y, expected.y.slice(begin, end)), bound);
      EXPECT_LE(relative_error(got.dx, expected.dx.slice(begin, end)), bound);
      EXPECT_LE(relative_error(got.dweights, expected.dweights.slice(begin, end)), bound);
      ranks.expect_expert_gradients(mine, whole, bound);
    }
    // Counts, rows and results in forward; gradients of results and of rows in backward.
    if (ranks.experts->size() > 1) {
      EXPECT_EQ(ranks.experts->traffic().at("all_to_all").calls, 2 * 5);
    } else {
      EXPECT_TRUE(ranks.experts->traffic().empty());
    }
  }
}

TEST(ExpertParallel, UnevenTokensAndARankWithout) {
  const auto tokens = uneven_tokens();
  expect_like_one_rank(tokens, random_ids(sum_of(tokens), 2, experts));
}

TEST(ExpertParallel, ManyTokens) {
  const std::vector<std::int64_t> tokens(static_cast<std::size_t>(runtime().world()), 301);
  expect_like_one_rank(tokens, random_ids(sum_of(tokens), 4, experts));
}

TEST(ExpertParallel, Float32) {
  const auto tokens = uneven_tokens();
  // Sums of at most 32 tokens, 12 features or 4 parts, three products in a row.
  expect_like_one_rank(tokens, random_ids(sum_of(tokens), 3, experts), DType::f32, 3 * 6 * 0x1p-24);
}

TEST(ExpertParallel, EveryTokenToOneExpertOfTheLastRank) {
  const auto tokens = uneven_tokens();
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(sum_of(tokens)), experts - 1);
  expect_like_one_rank(tokens, Tensor::from(ids, {sum_of(tokens), 1}));
}

TEST(ExpertParallel, TheFirstExpertsGetNone) {
  const auto tokens = uneven_tokens();
  const Tensor ids = random_ids(sum_of(tokens), 2, 3);
  for (std::int64_t a = 0; a < ids.numel(); ++a) ids.data<std::int32_t>()[a] += experts - 3;
  expect_like_one_rank(tokens, ids);
}

TEST(ExpertParallel, EveryExpertForEveryToken) {
  const auto tokens = uneven_tokens();
  expect_like_one_rank(tokens, random_ids(sum_of(tokens), experts, experts));
}

TEST(ExpertParallel, DroppedAssignments) {
  const auto tokens = uneven_tokens();
  const Tensor ids = random_ids(sum_of(tokens), 2, experts);
  for (std::int64_t a = 0; a < ids.numel(); a += 3) ids.data<std::int32_t>()[a] = -1;
  for (std::int64_t a = 6; a < 10; ++a) ids.data<std::int32_t>()[a] = -1;  // whole tokens too
  expect_like_one_rank(tokens, ids);
}

TEST(ExpertParallel, FewerTokensThanExpertsOnOneRank) {
  for (const std::size_t owner : {std::size_t{0}, static_cast<std::size_t>(runtime().world() - 1)}) {
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(runtime().world()), 0);
    tokens[owner] = 2;
    expect_like_one_rank(tokens, random_ids(2, 2, experts));
  }
}

TEST(ExpertParallel, OneTokenEach) {
  const std::vector<std::int64_t> tokens(static_cast<std::size_t>(runtime().world()), 1);
  expect_like_one_rank(tokens, random_ids(sum_of(tokens), 3, experts));
}

TEST(ExpertParallel, NoTokensAnywhere) {
  const std::vector<std::int64_t> tokens(static_cast<std::size_t>(runtime().world()), 0);
  expect_like_one_rank(tokens, random_ids(0, 2, experts));
}

// A rank that wants no gradient still works on the others' rows in backward, and nobody waits for it.
TEST(ExpertParallel, ARankThatWantsNoGradientTakesPart) {
  const std::int64_t each = 7, begin = runtime().rank() * each, total = runtime().world() * each;
  const auto alone = local_communicator("ep");
  const Tensor x = random_tensor({total, hidden_size}, 1, "x"),
               dy = random_tensor({total, hidden_size}, 1, "dy"), ids = random_ids(total, 2, experts),
               weights = make_routing(ids, experts).weights.value;
  const MoeCase whole(experts, hidden_size, width);
  const Result expected = run(whole, x, ids, weights, dy, *alone, 1, false);
  for (const ExpertLayout& layout : expert_layouts()) {
    const ExpertRanks ranks(layout);
    if (ranks.experts->size() == 1) continue;
    SCOPED_TRACE(layout.str());
    MoeCase mine = ranks.part_of(whole);
    const bool wanted = ranks.experts->rank() != 0;
    if (!wanted) mine.gate.grad = mine.up.grad = mine.down.grad = Tensor();
    const Result got = run(mine, x.slice(begin, begin + each), ids.slice(begin, begin + each),
                           weights.slice(begin, begin + each), dy.slice(begin, begin + each), *ranks.experts,
                           layout.etp, false, wanted);
    EXPECT_LE(relative_error(got.y, expected.y.slice(begin, begin + each)), tolerance);
    if (!wanted) continue;
    EXPECT_LE(relative_error(got.dx, expected.dx.slice(begin, begin + each)), tolerance);
    EXPECT_LE(relative_error(got.dweights, expected.dweights.slice(begin, begin + each)), tolerance);
    ranks.expect_expert_gradients(mine, whole, tolerance);
  }
}

TEST(ExpertParallel, EvaluationHasNoBackward) {
  for (const ExpertLayout& layout : expert_layouts()) {
    const ExpertRanks ranks(layout);
    const MoeCase mine = ranks.part_of(MoeCase(experts, hidden_size, width));
    TestStream stream;
    Tape tape(stream, {.recording = false});
    const Routing routing = make_routing(random_ids(3, 2, experts), experts);
    const Var y = moe_experts(tape, tape.input(random_tensor({3, hidden_size}, 1, "x")), routing,
                              mine.weights(), experts, *ranks.experts, layout.etp);
    EXPECT_FALSE(y.requires_grad());
    EXPECT_EQ(tape.size(), 0u);
  }
}

}  // namespace
}  // namespace hysparse::testing
