// Experts over an ep group against the same experts on one rank: every rank works out the whole problem alone,
// then its share with the others.
#include <numeric>

#include "tests/moe/moe_case.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse::testing {
namespace {

constexpr double tolerance = 1e-12;
constexpr std::int64_t experts = 8, hidden_size = 5, width = 3;

struct Result {
  Tensor y, dx, dweights;
};

/// Forward and backward of tokens x with their routing and dy; gradients of weights add to moe's.
Result run(MoeCase& moe, const Tensor& x, const Tensor& ids, const Tensor& weights, const Tensor& dy,
           Communicator& ep, bool apart) {
  TestStream stream;
  Tape tape(stream);
  Routing routing = make_routing(ids, experts);
  routing.weights = tape.input(weights);
  const Var input = tape.input(x);
  const Var y = moe_experts(tape, input, routing, moe.weights(), experts, ep);
  if (apart) {
    const Var sum = tape.output(Tensor::from<double>({0}, {1}), {y});
    tape.record("objective", {sum}, [&] { y.grad->accumulate(stream, dy.clone()); });
    const Tape::Root root{sum, 1.0};
    tape.backward_inputs({&root, 1});
    tape.backward_weights();
  } else {
    tape.backward(y, dy.clone());
  }
  return {y.value, input.grad->value(), routing.weights.grad->value()};
}

/// Experts [begin, end) of a stacked parameter.
Parameter part_of(const Parameter& p, std::int64_t begin, std::int64_t end) {
  return {p.name, p.value.slice(begin, end), Tensor::zeros(p.value.slice(begin, end).shape(), DType::f64)};
}

/// tokens[r] are on rank r; ids [sum of tokens, k].
void expect_like_one_rank(const std::vector<std::int64_t>& tokens, const Tensor& ids) {
  Runtime& mpi = runtime();
  std::vector<int> ranks(static_cast<std::size_t>(mpi.world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  const auto ep = mpi.communicator("ep", ranks);
  const auto alone = local_communicator("ep");
  const std::int64_t total = std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0});
  const std::int64_t begin = std::accumulate(tokens.begin(), tokens.begin() + mpi.rank(), std::int64_t{0});
  const std::int64_t end = begin + tokens[static_cast<std::size_t>(mpi.rank())];
  ASSERT_EQ(ids.dim(0), total);
  const Tensor x = random_tensor({total, hidden_size}, 1, "x"),
               dy = random_tensor({total, hidden_size}, 1, "dy");
  const Tensor weights = make_routing(ids, experts).weights.value;

  for (const bool apart : {false, true}) {
    MoeCase whole(experts, hidden_size, width);
    const Result expected = run(whole, x, ids, weights, dy, *alone, apart);
    MoeCase mine = whole;
    const std::int64_t local = experts / mpi.world(), first = local * mpi.rank();
    mine.gate = part_of(whole.gate, first, first + local);
    mine.up = part_of(whole.up, first, first + local);
    mine.down = part_of(whole.down, first, first + local);
    const Result got = run(mine, x.slice(begin, end), ids.slice(begin, end), weights.slice(begin, end),
                           dy.slice(begin, end), *ep, apart);
    EXPECT_LE(relative_error(got.y, expected.y.slice(begin, end)), tolerance);
    EXPECT_LE(relative_error(got.dx, expected.dx.slice(begin, end)), tolerance);
    EXPECT_LE(relative_error(got.dweights, expected.dweights.slice(begin, end)), tolerance);
    EXPECT_LE(relative_error(mine.gate.grad, whole.gate.grad.slice(first, first + local)), tolerance);
    EXPECT_LE(relative_error(mine.up.grad, whole.up.grad.slice(first, first + local)), tolerance);
    EXPECT_LE(relative_error(mine.down.grad, whole.down.grad.slice(first, first + local)), tolerance);
  }
  // Counts, rows and results in forward; gradients of results and of rows in backward.
  if (mpi.world() > 1) {
    EXPECT_EQ(ep->traffic().at("all_to_all").calls, 2 * 5);
  }
}

std::vector<std::int64_t> uneven_tokens() {
  std::vector<std::int64_t> tokens;
  for (int r = 0; r < runtime().world(); ++r) tokens.push_back(r % 3 == 1 ? 0 : 5 + 3 * r);
  return tokens;
}

std::int64_t sum(const std::vector<std::int64_t>& tokens) {
  return std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0});
}

TEST(ExpertParallel, UnevenTokensAndARankWithout) {
  const auto tokens = uneven_tokens();
  expect_like_one_rank(tokens, random_ids(sum(tokens), 2, experts));
}

TEST(ExpertParallel, ManyTokens) {
  const std::vector<std::int64_t> tokens(static_cast<std::size_t>(runtime().world()), 301);
  expect_like_one_rank(tokens, random_ids(sum(tokens), 2, experts));
}

TEST(ExpertParallel, EveryTokenToOneExpertOfTheLastRank) {
  const auto tokens = uneven_tokens();
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(sum(tokens)), experts - 1);
  expect_like_one_rank(tokens, Tensor::from(ids, {sum(tokens), 1}));
}

TEST(ExpertParallel, EveryExpertForEveryToken) {
  const auto tokens = uneven_tokens();
  expect_like_one_rank(tokens, random_ids(sum(tokens), experts, experts));
}

TEST(ExpertParallel, DroppedAssignments) {
  const auto tokens = uneven_tokens();
  const Tensor ids = random_ids(sum(tokens), 2, experts);
  for (std::int64_t a = 0; a < ids.numel(); a += 3) ids.data<std::int32_t>()[a] = -1;
  expect_like_one_rank(tokens, ids);
}

TEST(ExpertParallel, NoTokensAnywhere) {
  const std::vector<std::int64_t> tokens(static_cast<std::size_t>(runtime().world()), 0);
  expect_like_one_rank(tokens, random_ids(0, 2, experts));
}

}  // namespace
}  // namespace hysparse::testing
