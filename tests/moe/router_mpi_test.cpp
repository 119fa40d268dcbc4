// Router, experts and their losses over slices of the tokens, against all tokens on one rank.
#include "moe/router.h"
#include "tests/moe/moe_ranks.h"

namespace hysparse::testing {
namespace {

constexpr double tolerance = 1e-12;
constexpr std::int64_t experts = 12, hidden_size = 5, width = 12;

struct Case {
  std::string name;
  std::int64_t total, seq_len;
  MoeConfig config;
  bool bias = false;
};

std::vector<Case> all_cases() {
  MoeConfig sigmoid{.num_experts = experts, .top_k = 3, .routed_scaling = 1.3};
  MoeConfig softmax = sigmoid;
  softmax.scoring = RouterScoring::softmax;
  MoeConfig capacity = sigmoid;
  capacity.capacity_factor = 0.6;
  MoeConfig tight = softmax;
  tight.capacity_factor = 0.05;  // one assignment for each expert and sequence
  MoeConfig balanced = sigmoid;
  balanced.balanced_routing = true;
  MoeConfig balanced_capacity = balanced;
  balanced_capacity.capacity_factor = 0.4;
  return {{"sigmoid", 24, 12, sigmoid, true},
          {"one_sequence", 25, 25, softmax},
          {"short_sequences", 21, 3, sigmoid},
          {"capacity", 44, 22, capacity, true},
          {"capacity_of_one", 39, 13, tight},
          {"capacity_one_sequence", 31, 31, capacity},
          {"balanced", 26, 13, balanced},
          {"balanced_capacity", 34, 17, balanced_capacity},
          {"fewer_tokens_than_experts", 2, 1, sigmoid},
          {"one_token", 1, 1, capacity}};
}

/// Borders [world + 1] of the ranks' slices: as even as they get, much on the last, the second empty.
std::vector<std::vector<std::int64_t>> all_borders(std::int64_t total) {
  const std::int64_t world = runtime().world();
  std::vector<std::int64_t> even, last, gap;
  for (std::int64_t r = 0; r <= world; ++r) {
    even.push_back(total * r / world);
    last.push_back(r < world ? std::min(r * r, total / 3) : total);
    gap.push_back(r == 0 ? 0 : r <= 2 && r < world ? (total + 1) / 2 : total);
  }
  return {even, last, gap};
}

struct Result {
  Routing routing;
  Tensor y, dx, losses;  // losses f64 [2]: load balance, z
};

Result run(const MoeCase& moe, const Case& c, const Tensor& x, const Tensor& dy, const TokenSlice& slice,
           Communicator& group, int etp, const Tensor& chosen = {}) {
  TestStream stream;
  Tape tape(stream);
  const Var input = tape.input(x);
  const Tensor bias = c.bias ? random_tensor({experts}, 3, "bias", 0.3) : Tensor();
  Result result;
  result.routing = route(tape, input, moe.router, bias, c.config, c.seq_len, slice, chosen);
  const Var y = moe_experts(tape, input, result.routing, moe.weights(), experts, group, etp);
  const Var balance = load_balance_loss(tape, result.routing, c.seq_len, slice),
            z = z_loss(tape, result.routing);
  result.y = y.value;
  result.losses = Tensor::from<double>({*balance.value.data<double>(), *z.value.data<double>()}, {2});
  const Var objective = tape.output(Tensor::zeros({1}, DType::f64), {y});
  tape.record("objective", {objective}, [&] { y.grad->accumulate(stream, dy.clone()); });
  const std::vector<Tape::Root> roots{{objective, 1.0}, {balance, 0.7}, {z, 0.3}};
  tape.backward(roots);
  result.dx = input.grad->value();
  return result;
}

class RouterSlices : public ::testing::TestWithParam<Case> {};

TEST_P(RouterSlices, AreLikeOneRank) {
  const Case& c = GetParam();
  const int rank = runtime().rank();
  std::vector<int> everyone(static_cast<std::size_t>(runtime().world()));
  std::iota(everyone.begin(), everyone.end(), 0);
  const auto tp = runtime().communicator("tp", everyone);
  const auto alone = local_communicator("ep");
  const Tensor x = random_tensor({c.total, hidden_size}, 1, "x"), dy = random_tensor(x.shape(), 1, "dy");
  const MoeCase whole(experts, hidden_size, width);
  const Result expected = run(whole, c, x, dy, {}, *alone, 1);
  if (c.config.capacity_factor > 0 && c.total > experts) {
    ASSERT_GT(*expected.routing.dropped.data<std::int64_t>(), 0);
  }

  for (const auto& borders : all_borders(c.total)) {
    const std::int64_t begin = borders[static_cast<std::size_t>(rank)],
                       end = borders[static_cast<std::size_t>(rank) + 1];
    SCOPED_TRACE(fmt::format("tokens [{}, {})", begin, end));
    const TokenSlice slice{tp.get(), begin, end, c.total};
    for (const ExpertLayout& layout : expert_layouts()) {
      SCOPED_TRACE(layout.str());
      const ExpertRanks ranks(layout);
      const MoeCase mine = ranks.part_of(whole);
      const Result got =
          run(mine, c, x.slice(begin, end), dy.slice(begin, end), slice, *ranks.experts, layout.etp);
      const auto same_ids = [&](const Tensor& a, const Tensor& b) {
        EXPECT_EQ(a.to_vector<std::int32_t>(), b.slice(begin, end).to_vector<std::int32_t>());
      };
      same_ids(got.routing.chosen_ids, expected.routing.chosen_ids);
      same_ids(got.routing.expert_ids, expected.routing.expert_ids);
      EXPECT_LE(relative_error(got.routing.weights.value, expected.routing.weights.value.slice(begin, end)),
                tolerance);
      EXPECT_LE(relative_error(got.y, expected.y.slice(begin, end)), tolerance);
      EXPECT_LE(relative_error(got.dx, expected.dx.slice(begin, end)), tolerance);
      ranks.expect_expert_gradients(mine, whole, tolerance);

      tp->all_reduce(mine.router.grad);
      EXPECT_LE(relative_error(mine.router.grad, whole.router.grad), tolerance);
      tp->all_reduce(got.losses);
      EXPECT_LE(relative_error(got.losses, expected.losses), tolerance);
      tp->all_reduce(got.routing.expert_counts);
      EXPECT_EQ(got.routing.expert_counts.to_vector<std::int64_t>(),
                expected.routing.expert_counts.to_vector<std::int64_t>());
      tp->all_reduce(got.routing.dropped);
      EXPECT_EQ(got.routing.dropped.to_vector<std::int64_t>(),
                expected.routing.dropped.to_vector<std::int64_t>());

      const MoeCase again = ranks.part_of(whole);
      const Result replayed = run(again, c, x.slice(begin, end), dy.slice(begin, end), slice, *ranks.experts,
                                  layout.etp, got.routing.chosen_ids);
      EXPECT_EQ(replayed.y.to_vector<double>(), got.y.to_vector<double>());
      EXPECT_EQ(replayed.dx.to_vector<double>(), got.dx.to_vector<double>());
    }
  }
  // The group of the tokens serves counts alone: what earlier ranks have taken, and f_e.
  const auto& traffic = tp->traffic();
  const bool alone_here = runtime().world() == 1;
  EXPECT_EQ(traffic.count("all_gather"), c.config.capacity_factor > 0 && !alone_here ? 1u : 0u);
  if (traffic.count("all_gather") != 0) {
    EXPECT_EQ(traffic.at("all_gather").bytes, traffic.at("all_gather").calls * 8 * (experts + 1));
  }
}

INSTANTIATE_TEST_SUITE_P(All, RouterSlices, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace hysparse::testing
