// Experts on one rank: values against naive loops, gradients against differences, uneven loads.
#include "moe/experts.h"

#include "moe/dispatch.h"
#include "tests/moe/moe_case.h"

namespace hysparse::testing {
namespace {

struct ExpertsCase {
  std::string name;
  std::int64_t experts, hidden_size, width;
  Tensor ids;
};

void PrintTo(const ExpertsCase& c, std::ostream* out) {
  *out << c.name;
}

Tensor repeated(std::int64_t tokens, const std::vector<std::int32_t>& slots) {
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < tokens; ++t) ids.insert(ids.end(), slots.begin(), slots.end());
  return Tensor::from(ids, {tokens, static_cast<std::int64_t>(slots.size())});
}

std::vector<ExpertsCase> all_cases() {
  return {{"even", 4, 6, 3, random_ids(10, 2, 4)},
          {"fewer_tokens_than_experts", 9, 5, 7, random_ids(2, 2, 9)},
          {"all_to_one", 4, 5, 3, repeated(7, {2})},
          {"all_experts", 3, 4, 2, random_ids(5, 3, 3)},
          {"one_expert", 1, 3, 2, repeated(4, {0})},
          {"no_tokens", 4, 5, 3, random_ids(0, 2, 4)},
          {"one_token", 4, 1, 1, random_ids(1, 1, 4)},
          {"dropped", 3, 4, 5, Tensor::from<std::int32_t>({0, -1, -1, -1, 2, 0, -1, 1, 0, 2}, {5, 2})},
          {"all_dropped", 3, 4, 5, repeated(3, {-1, -1})},
          {"several_tiles", 2, 3, 2, repeated(300, {1, 0})}};
}

class Experts : public ::testing::TestWithParam<ExpertsCase> {};

TEST_P(Experts, ValueIsTheNaiveOne) {
  const ExpertsCase& c = GetParam();
  const MoeCase moe(c.experts, c.hidden_size, c.width);
  const Tensor x = random_tensor({c.ids.dim(0), c.hidden_size}, 1, "x");
  const Routing routing = make_routing(c.ids, c.experts);
  const auto ep = local_communicator("ep");
  TestStream stream(3);
  Tape tape(stream);
  const Var y = moe_experts(tape, tape.constant(x), routing, moe.weights(), c.experts, *ep);
  EXPECT_LE(relative_error(y.value, naive_experts(moe, x, c.ids, routing.weights.value)), 1e-14);
}

TEST_P(Experts, GradientsAgreeWithDifferences) {
  const ExpertsCase& c = GetParam();
  MoeCase moe(c.experts, c.hidden_size, c.width);
  const auto ep = local_communicator("ep");
  Routing routing = make_routing(c.ids, c.experts);
  check_gradients(
      [&](Tape& tape, const std::vector<Var>& v) {
        routing.weights = v[1];
        // Used twice, so that gradients add.
        const Var once = moe_experts(tape, v[0], routing, moe.weights(), c.experts, *ep);
        return std::vector<Var>{once, moe_experts(tape, once, routing, moe.weights(), c.experts, *ep)};
      },
      {random_tensor({c.ids.dim(0), c.hidden_size}, 1, "x"), routing.weights.value}, moe.parameters());
}

struct Run {
  Tensor y, dx, dweights, dgate, dup, ddown;
};

Run run(const ExpertsCase& c, DType dtype, int threads, bool apart) {
  MoeCase moe(c.experts, c.hidden_size, c.width, dtype);
  const auto ep = local_communicator("ep");
  TestStream stream(threads);
  Tape tape(stream);
  Routing routing = make_routing(c.ids, c.experts, dtype);
  routing.weights = tape.input(routing.weights.value);
  const Var x = tape.input(random_tensor({c.ids.dim(0), c.hidden_size}, 1, "x", 1.0, dtype));
  const Var y = moe_experts(tape, x, routing, moe.weights(), c.experts, *ep);
  const auto roots = random_objective(tape, {y});
  if (apart) {
    tape.backward_inputs(roots);
    tape.backward_weights();
  } else {
    tape.backward(roots);
  }
  return {y.value, x.grad->value(), routing.weights.grad->value(), moe.gate.grad, moe.up.grad, moe.down.grad};
}

void expect_close(const Run& a, const Run& b, double tolerance) {
  EXPECT_LE(relative_error(a.y, b.y), tolerance);
  EXPECT_LE(relative_error(a.dx, b.dx), tolerance);
  EXPECT_LE(relative_error(a.dweights, b.dweights), tolerance);
  EXPECT_LE(relative_error(a.dgate, b.dgate), tolerance);
  EXPECT_LE(relative_error(a.dup, b.dup), tolerance);
  EXPECT_LE(relative_error(a.ddown, b.ddown), tolerance);
}

TEST_P(Experts, SplitBackwardAndRepeatsAreBitwiseTheSame) {
  expect_close(run(GetParam(), DType::f64, 2, true), run(GetParam(), DType::f64, 2, false), 0.0);
  expect_close(run(GetParam(), DType::f32, 3, false), run(GetParam(), DType::f32, 3, false), 0.0);
}

TEST_P(Experts, ThreadsChangeRoundingAtMost) {
  expect_close(run(GetParam(), DType::f64, 4, false), run(GetParam(), DType::f64, 1, false), 1e-14);
}

TEST_P(Experts, Float32AgreesWithDouble) {
  // Three products in a row, sums of at most 300 terms: sqrt(300) roundings of 2^-24 each, by norm.
  expect_close(run(GetParam(), DType::f32, 2, false), run(GetParam(), DType::f64, 2, false),
               3 * 17.3 * 0x1p-24);
}

INSTANTIATE_TEST_SUITE_P(All, Experts, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

TEST(ExpertsGradient, OfExpertsWithoutTokensIsUntouched) {
  MoeCase moe(4, 3, 2);
  const double mark = std::nan("");
  for (Parameter* p : moe.parameters()) {
    for (std::int64_t i = 0; i < p->grad.numel(); ++i) p->grad.data<double>()[i] = i / 6 == 2 ? 0.0 : mark;
  }
  const auto ep = local_communicator("ep");
  TestStream stream;
  Tape tape(stream);
  const Var y = moe_experts(tape, tape.input(random_tensor({3, 3}, 1, "x")), make_routing(repeated(3, {2}), 4),
                            moe.weights(), 4, *ep);
  tape.backward(random_objective(tape, {y}));
  for (const Parameter* p : moe.parameters()) {
    for (std::int64_t i = 0; i < p->grad.numel(); ++i) {
      EXPECT_EQ(std::isnan(p->grad.data<double>()[i]), i / 6 != 2) << p->name << " " << i;
    }
  }
}

TEST(ExpertsGradient, FrozenPartsGetNone) {
  MoeCase moe(4, 3, 2);
  moe.up.grad = Tensor();
  const auto ep = local_communicator("ep");
  TestStream stream;
  {
    Tape tape(stream);
    const Var x = tape.constant(random_tensor({3, 3}, 1, "x"));
    tape.backward(random_objective(
        tape, {moe_experts(tape, x, make_routing(repeated(3, {2}), 4), moe.weights(), 4, *ep)}));
    EXPECT_GT(relative_error(moe.gate.grad, Tensor::zeros(moe.gate.grad.shape(), DType::f64)), 0);
  }
  moe.gate.grad = moe.down.grad = Tensor();
  Tape tape(stream);
  const Var x = tape.constant(random_tensor({3, 3}, 1, "x"));
  EXPECT_FALSE(moe_experts(tape, x, make_routing(repeated(3, {2}), 4), moe.weights(), 4, *ep).requires_grad());
}

TEST(ExpertsWithRouter, GradientsGoThroughWeightsAndScores) {
  MoeCase moe(5, 4, 3);
  for (const double capacity : {0.0, 0.7}) {
    const MoeConfig config{.num_experts = 5, .top_k = 2, .capacity_factor = capacity};
    const auto ep = local_communicator("ep");
    std::vector<Parameter*> parameters = moe.parameters();
    parameters.push_back(&moe.router);
    check_gradients(
        [&](Tape& tape, const std::vector<Var>& x) {
          const Routing r = route(tape, x[0], moe.router, Tensor(), config, 4);
          return std::vector<Var>{moe_experts(tape, x[0], r, moe.weights(), 5, *ep),
                                  load_balance_loss(tape, r, 4)};
        },
        {random_tensor({8, 4}, 1, "x")}, parameters);
  }
}

TEST(ExpertOrder, SortsByExpertThenToken) {
  TestStream stream;
  const ExpertOrder order =
      order_by_expert(stream, Tensor::from<std::int32_t>({2, 0, -1, 2, 0, 1}, {3, 2}), 4, 5);
  EXPECT_EQ(order.assignments.to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 4, 5, 0, 3}));
  EXPECT_EQ(order.positions.to_vector<std::int32_t>(), (std::vector<std::int32_t>{3, 0, -1, 4, 1, 2}));
  EXPECT_EQ(order.offsets.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 2, 3, 5, 5}));
  EXPECT_EQ(order.sources.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 2, 2, 0, 1}));
}

}  // namespace
}  // namespace hysparse::testing
