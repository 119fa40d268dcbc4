// The router and its losses: values against naive loops, gradients against differences.
#include "moe/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/ops/add.h"
#include "tests/moe/moe_case.h"

namespace hysparse::testing {
namespace {

struct RouterCase {
  std::string name;
  std::int64_t tokens, seq_len;
  MoeConfig config;
  bool bias = false;
};

void PrintTo(const RouterCase& c, std::ostream* out) {
  *out << c.name;
}

constexpr std::int64_t hidden_size = 5;

std::vector<RouterCase> all_cases() {
  MoeConfig sigmoid{.num_experts = 6, .top_k = 2};
  MoeConfig softmax = sigmoid;
  softmax.scoring = RouterScoring::softmax;
  MoeConfig plain = softmax;
  plain.normalize_top_k = false;
  plain.routed_scaling = 2.5;
  MoeConfig scaled = sigmoid;
  scaled.routed_scaling = 1.7;
  scaled.top_k = 3;
  MoeConfig not_normalized = sigmoid;
  not_normalized.normalize_top_k = false;
  MoeConfig all = sigmoid;
  all.top_k = 6;
  MoeConfig one{.num_experts = 1, .top_k = 1};
  MoeConfig wide{.num_experts = 37, .top_k = 4, .scoring = RouterScoring::softmax};
  MoeConfig capacity = sigmoid;
  capacity.capacity_factor = 0.8;
  MoeConfig capacity_softmax = plain;
  capacity_softmax.capacity_factor = 0.5;
  MoeConfig balanced = sigmoid;
  balanced.balanced_routing = true;
  return {{"sigmoid", 8, 4, sigmoid},
          {"sigmoid_bias", 8, 8, sigmoid, true},
          {"softmax", 8, 2, softmax},
          {"softmax_bias", 8, 4, softmax, true},
          {"plain_scaled", 6, 3, plain},
          {"scaled_top3", 6, 3, scaled},
          {"unnormalized", 4, 4, not_normalized, true},
          {"all_experts", 4, 2, all},
          {"one_expert", 4, 2, one},
          {"wide", 5, 1, wide},
          {"capacity", 12, 6, capacity},
          {"capacity_softmax", 9, 9, capacity_softmax},
          {"balanced", 9, 3, balanced},
          {"no_tokens", 0, 4, sigmoid},
          {"one_token", 1, 1, sigmoid}};
}

Tensor bias_of(const RouterCase& c, DType dtype = DType::f64) {
  return c.bias ? random_tensor({c.config.num_experts}, 3, "bias", 0.3, dtype) : Tensor();
}

class Router : public ::testing::TestWithParam<RouterCase> {};

TEST_P(Router, ChoosesAndWeighsLikeTheNaiveOne) {
  const RouterCase& c = GetParam();
  const std::int64_t experts = c.config.num_experts, k = c.config.top_k;
  const MoeCase moe(experts, hidden_size, 3);
  const Tensor x = random_tensor({c.tokens, hidden_size}, 1, "x"), bias = bias_of(c);
  TestStream stream;
  Tape tape(stream);
  const Routing r = route(tape, tape.constant(x), moe.router, bias, c.config, c.seq_len);

  const auto capacity = static_cast<std::int64_t>(
      std::ceil(c.config.capacity_factor * static_cast<double>(c.seq_len * k) / static_cast<double>(experts)));
  std::vector<std::int64_t> counts(static_cast<std::size_t>(experts)), taken;
  std::int64_t dropped = 0;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    if (t % c.seq_len == 0) taken.assign(static_cast<std::size_t>(experts), 0);
    std::vector<double> score(static_cast<std::size_t>(experts));
    double total = 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      double logit = 0;
      for (std::int64_t i = 0; i < hidden_size; ++i) {
        logit += x.data<double>()[t * hidden_size + i] * moe.router.value.data<double>()[e * hidden_size + i];
      }
      EXPECT_NEAR(r.logits.value.data<double>()[t * experts + e], logit, 1e-14);
      score[static_cast<std::size_t>(e)] =
          c.config.scoring == RouterScoring::softmax ? std::exp(logit) : 1 / (1 + std::exp(-logit));
      total += score[static_cast<std::size_t>(e)];
    }
    if (c.config.scoring == RouterScoring::softmax) {
      for (double& s : score) s /= total;
      total = 1;
    }
    std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    const auto picked = [&](std::int32_t e) {
      return score[static_cast<std::size_t>(e)] + (bias.defined() ? bias.data<double>()[e] : 0.0);
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int32_t a, std::int32_t b) { return picked(a) > picked(b); });
    if (c.config.balanced_routing) {
      for (std::int64_t i = 0; i < k; ++i)
        order[static_cast<std::size_t>(i)] = static_cast<std::int32_t>((t * k + i) % experts);
    }
    double chosen = 0;
    for (std::int64_t i = 0; i < k; ++i)
      chosen += score[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
    for (std::int64_t i = 0; i < k; ++i) {
      const auto e = static_cast<std::size_t>(order[static_cast<std::size_t>(i)]);
      ++counts[e];
      const bool drop = c.config.capacity_factor > 0 && ++taken[e] > capacity;
      dropped += drop;
      const double weight = score[e] / (c.config.normalize_top_k ? chosen : 1.0) * c.config.routed_scaling;
      EXPECT_EQ(r.chosen_ids.data<std::int32_t>()[t * k + i], order[static_cast<std::size_t>(i)])
          << t << " " << i;
      EXPECT_EQ(r.expert_ids.data<std::int32_t>()[t * k + i], drop ? -1 : order[static_cast<std::size_t>(i)]);
      EXPECT_NEAR(r.weights.value.data<double>()[t * k + i], drop ? 0.0 : weight, 1e-14);
    }
    for (std::int64_t e = 0; e < experts; ++e) {
      EXPECT_NEAR(r.probabilities.value.data<double>()[t * experts + e],
                  score[static_cast<std::size_t>(e)] / total, 1e-14);
    }
  }
  EXPECT_EQ(r.expert_counts.to_vector<std::int64_t>(), counts);
  EXPECT_EQ(*r.dropped.data<std::int64_t>(), dropped);
  if (c.config.capacity_factor > 0) {
    EXPECT_GT(dropped, 0);
  }
}

TEST_P(Router, GradientsAgreeWithDifferences) {
  const RouterCase& c = GetParam();
  MoeCase moe(c.config.num_experts, hidden_size, 3);
  const Tensor bias = bias_of(c);
  check_gradients(
      [&](Tape& tape, const std::vector<Var>& x) {
        const Routing r = route(tape, x[0], moe.router, bias, c.config, c.seq_len);
        return std::vector<Var>{r.weights, load_balance_loss(tape, r, c.seq_len), z_loss(tape, r)};
      },
      {random_tensor({c.tokens, hidden_size}, 1, "x")}, {&moe.router});
}

/// Each way on its own: the other gradients are undefined then.
TEST_P(Router, GradientsOfEachOutputAlone) {
  const RouterCase& c = GetParam();
  MoeCase moe(c.config.num_experts, hidden_size, 3);
  for (int output = 0; output < 4; ++output) {
    check_gradients(
        [&](Tape& tape, const std::vector<Var>& x) -> std::vector<Var> {
          const Routing r = route(tape, x[0], moe.router, bias_of(c), c.config, c.seq_len);
          if (output == 0) return {r.weights};
          if (output == 1) return {load_balance_loss(tape, r, c.seq_len)};
          if (output == 2) return {z_loss(tape, r)};
          return {r.logits, r.probabilities, load_balance_loss(tape, r, c.seq_len), z_loss(tape, r)};
        },
        {random_tensor({c.tokens, hidden_size}, 1, "x")}, {&moe.router});
  }
}

TEST_P(Router, Float32ChoosesAlikeAndIsClose) {
  const RouterCase& c = GetParam();
  const auto run = [&](DType dtype) {
    const MoeCase moe(c.config.num_experts, hidden_size, 3, dtype);
    TestStream stream;
    Tape tape(stream);
    const Var x = tape.input(random_tensor({c.tokens, hidden_size}, 1, "x", 1.0, dtype));
    const Routing r = route(tape, x, moe.router, bias_of(c, dtype), c.config, c.seq_len);
    tape.backward(random_objective(tape, {r.weights, load_balance_loss(tape, r, c.seq_len), z_loss(tape, r)}));
    return std::tuple{r, x.grad->value(), moe.router.grad};
  };
  const auto [narrow, dx, dgate] = run(DType::f32);
  const auto [wide, dx_wide, dgate_wide] = run(DType::f64);
  EXPECT_EQ(narrow.expert_ids.to_vector<std::int32_t>(), wide.expert_ids.to_vector<std::int32_t>());
  // A dozen roundings in a row, on sums of at most 37 terms.
  constexpr double tolerance = 64 * 0x1p-24;
  EXPECT_LE(relative_error(narrow.weights.value, wide.weights.value), tolerance);
  EXPECT_LE(relative_error(dx, dx_wide), tolerance);
  EXPECT_LE(relative_error(dgate, dgate_wide), tolerance);
}

INSTANTIATE_TEST_SUITE_P(All, Router, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

// Recomputation: the choices of an earlier call, with weights that would choose otherwise.
TEST_P(Router, ReplaysChoices) {
  const RouterCase& c = GetParam();
  MoeCase moe(c.config.num_experts, hidden_size, 3);
  const Tensor x = random_tensor({c.tokens, hidden_size}, 1, "x");
  const auto run = [&](const Tensor& bias, const Tensor& chosen) {
    moe.router.grad.zero_();
    TestStream stream;
    Tape tape(stream);
    const Var input = tape.input(x);
    const Routing r = route(tape, input, moe.router, bias, c.config, c.seq_len, {}, chosen);
    tape.backward(random_objective(tape, {r.weights, load_balance_loss(tape, r, c.seq_len), z_loss(tape, r)}));
    return std::tuple{r, input.grad->value(), moe.router.grad.clone()};
  };
  const auto [first, dx, dgate] = run(bias_of(c), {});
  const Tensor other = random_tensor({c.config.num_experts}, 4, "other", 3.0);
  const auto [again, dx_again, dgate_again] = run(other, first.chosen_ids);
  EXPECT_EQ(again.chosen_ids.to_vector<std::int32_t>(), first.chosen_ids.to_vector<std::int32_t>());
  EXPECT_EQ(again.expert_ids.to_vector<std::int32_t>(), first.expert_ids.to_vector<std::int32_t>());
  EXPECT_EQ(again.weights.value.to_vector<double>(), first.weights.value.to_vector<double>());
  EXPECT_EQ(again.expert_counts.to_vector<std::int64_t>(), first.expert_counts.to_vector<std::int64_t>());
  EXPECT_EQ(again.dropped.to_vector<std::int64_t>(), first.dropped.to_vector<std::int64_t>());
  EXPECT_EQ(dx_again.to_vector<double>(), dx.to_vector<double>());
  EXPECT_EQ(dgate_again.to_vector<double>(), dgate.to_vector<double>());
}

TEST(RouterTies, GoToTheLowerExpert) {
  MoeConfig config{.num_experts = 5, .top_k = 3};
  MoeCase moe(5, 2, 3);
  moe.router.value.zero_();
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.constant(random_tensor({2, 2}, 1, "x"));
  const Routing even = route(tape, x, moe.router, Tensor(), config, 1);
  EXPECT_EQ(even.expert_ids.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 1, 2, 0, 1, 2}));
  const Routing biased = route(tape, x, moe.router, Tensor::from<double>({0, 0.5, 0, 0.5, 0}, {5}), config, 1);
  EXPECT_EQ(biased.expert_ids.to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 3, 0, 1, 3, 0}));
  // The bias only picks: the weights are those of equal scores.
  for (const double w : biased.weights.value.to_vector<double>()) EXPECT_DOUBLE_EQ(w, 1.0 / 3);
}

TEST(RouterNonFinite, StillChoosesDistinctExperts) {
  for (const RouterScoring scoring : {RouterScoring::softmax, RouterScoring::sigmoid}) {
    MoeConfig config{.num_experts = 4, .top_k = 2, .scoring = scoring};
    const MoeCase moe(4, 2, 3, DType::f32);
    TestStream stream;
    Tape tape(stream);
    const Var x = tape.constant(Tensor::from<float>({std::nanf(""), 1}, {1, 2}));
    const Routing r = route(tape, x, moe.router, Tensor(), config, 1);
    EXPECT_EQ(r.expert_ids.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 1}));
    EXPECT_TRUE(std::isnan(r.weights.value.data<float>()[0]));
  }
}

TEST(RouterEvaluation, KeepsNothing) {
  const MoeCase moe(4, 2, 3);
  TestStream stream;
  Tape tape(stream, {.recording = false});
  const Routing r =
      route(tape, tape.input(random_tensor({3, 2}, 1, "x")), moe.router, Tensor(), {.num_experts = 4}, 3);
  EXPECT_FALSE(load_balance_loss(tape, r, 3).requires_grad() || z_loss(tape, r).requires_grad());
  EXPECT_EQ(tape.size(), 0u);
}

TEST(LoadBalanceLoss, IsOneWhenBalancedAndSumsOverSequences) {
  MoeConfig config{.num_experts = 4, .top_k = 2, .scoring = RouterScoring::softmax};
  config.balanced_routing = true;
  MoeCase moe(4, 2, 3);
  moe.router.value.zero_();
  TestStream stream;
  Tape tape(stream);
  const Routing r = route(tape, tape.constant(random_tensor({8, 2}, 1, "x")), moe.router, Tensor(), config, 4);
  EXPECT_DOUBLE_EQ(*load_balance_loss(tape, r, 4).value.data<double>(), 2.0);
  EXPECT_DOUBLE_EQ(*load_balance_loss(tape, r, 8).value.data<double>(), 1.0);
  const double lse = std::log(4.0);
  EXPECT_NEAR(*z_loss(tape, r).value.data<double>(), 8 * lse * lse, 1e-13);
}

TEST(LoadBalanceLoss, IsTheNaiveOneBeforeDropping) {
  MoeConfig config{.num_experts = 5, .top_k = 2, .capacity_factor = 0.5};
  const std::int64_t tokens = 12, seq_len = 6;
  const MoeCase moe(5, hidden_size, 3);
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.constant(random_tensor({tokens, hidden_size}, 1, "x"));
  const Routing r = route(tape, x, moe.router, Tensor(), config, seq_len);
  ASSERT_GT(*r.dropped.data<std::int64_t>(), 0);
  double expected = 0;
  for (std::int64_t s = 0; s < tokens; s += seq_len) {
    for (std::int64_t e = 0; e < 5; ++e) {
      double count = 0, probability = 0;
      for (std::int64_t t = s; t < s + seq_len; ++t) {
        for (std::int64_t i = 0; i < 2; ++i) count += r.chosen_ids.data<std::int32_t>()[t * 2 + i] == e;
        probability += r.probabilities.value.data<double>()[t * 5 + e];
      }
      expected += 5 * (count / (seq_len * 2)) * (probability / seq_len);
    }
  }
  EXPECT_NEAR(*load_balance_loss(tape, r, seq_len).value.data<double>(), expected, 1e-14);
}

}  // namespace
}  // namespace hysparse::testing
