/// Gradient checks of every op of attention/, by central differences in float64.
#include "attention/attention.h"
#include "attention/gate.h"
#include "attention/rope.h"
#include "tests/attention/naive.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

BlockLists select(const Case& c, const Inputs& inputs) {
  TestStream stream;
  Tape tape(stream, {.recording = false});
  return *full_attention(tape, tape.constant(inputs.q), tape.constant(inputs.k), tape.constant(inputs.v),
                         c.shape(), c.selection())
              .blocks;
}

class GradientCases : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Sizes, GradientCases,
                         ::testing::Values(Case{2, 13, 4, 2, 6, 4, 2, 5}, Case{1, 21, 3, 3, 4, 5, 3, 30},
                                           Case{1, 9, 8, 1, 3, 1, 4, 1}, Case{2, 13, 4, 2, 6, 4, 2, 5, 5},
                                           Case{1, 21, 3, 3, 4, 5, 3, 30, 8}, Case{1, 9, 8, 1, 3, 1, 4, 1, 3}),
                         case_name);

TEST_P(GradientCases, Full) {
  const Case c = GetParam();
  const Inputs inputs = random_inputs(c, 31);
  check_gradients(
      [&](Tape& tape, const std::vector<Var>& x) {
        return std::vector<Var>{full_attention(tape, x[0], x[1], x[2], c.shape(), std::nullopt).out};
      },
      {inputs.q, inputs.k, inputs.v});
}

TEST_P(GradientCases, BlockSparse) {
  const Case c = GetParam();
  const Inputs inputs = random_inputs(c, 32);
  const BlockLists lists = select(c, inputs);
  Parameter sinks = random_parameter({c.num_heads}, 32, "sinks");
  check_gradients(
      [&](Tape& tape, const std::vector<Var>& x) {
        return std::vector<Var>{block_sparse_attention(tape, x[0], x[1], x[2], lists, &sinks, c.shape())};
      },
      {inputs.q, inputs.k, inputs.v}, {&sinks});
}

TEST_P(GradientCases, Window) {
  const Case c = GetParam();
  const Inputs inputs = random_inputs(c, 33);
  Parameter sinks = random_parameter({c.num_heads}, 33, "sinks");
  check_gradients(
      [&](Tape& tape, const std::vector<Var>& x) {
        return std::vector<Var>{window_attention(tape, x[0], x[1], x[2], c.window, &sinks, c.shape())};
      },
      {inputs.q, inputs.k, inputs.v}, {&sinks});
}

/// One full layer and three sparse followers that read its K and V, one of them for its window branch too, as a
/// hybrid block does: the gradients of K and V are sums over all of them.
TEST(AttentionGradient, OracleKeysAndValuesGatherFromEveryFollower) {
  for (const Case& c : {Case{2, 17, 4, 2, 6, 4, 2, 5}, Case{2, 17, 4, 2, 6, 4, 2, 5, 7}}) {
    const Inputs inputs = random_inputs(c, 34);
    const BlockLists fixed = select(c, inputs);
    std::vector<Tensor> tensors{inputs.q, inputs.k, inputs.v};
    std::vector<Parameter> sinks;
    for (int follower = 0; follower < 3; ++follower) {
      tensors.push_back(random_tensor(inputs.q.shape(), 35, fmt::format("q{}", follower)));
      sinks.push_back(random_parameter({c.num_heads}, 35, fmt::format("sinks{}", follower)));
    }
    check_gradients(
        [&](Tape& tape, const std::vector<Var>& x) {
          // The lists stay as they are at the point of the check: choosing has no gradient.
          std::vector<Var> outputs{full_attention(tape, x[0], x[1], x[2], c.shape(), c.selection()).out};
          for (std::size_t f = 0; f < 3; ++f) {
            outputs.push_back(block_sparse_attention(tape, x[3 + f], x[1], x[2], fixed, &sinks[f], c.shape()));
          }
          outputs.push_back(window_attention(tape, x[5], x[1], x[2], c.window, &sinks[2], c.shape()));
          return outputs;
        },
        tensors, {&sinks[0], &sinks[1], &sinks[2]});
  }
}

/// The same sum, term by term: what reaches K and V from all ops on one tape is the sum of what each sends
/// alone.
TEST(AttentionGradient, SumOverFollowersEqualsTheSumOfParts) {
  const Case c{2, 40, 8, 2, 16, 8, 2, 12};
  const Inputs inputs = random_inputs(c, 36);
  const BlockLists lists = select(c, inputs);
  NaiveResult expected = naive_attention(c, inputs, sees_all(), false);
  TestStream stream;
  Tape tape(stream);
  const Var k = tape.input(inputs.k), v = tape.input(inputs.v);
  std::vector<Var> outputs{full_attention(tape, tape.input(inputs.q), k, v, c.shape(), std::nullopt).out};
  for (std::uint64_t f = 0; f < 3; ++f) {
    Inputs follower = inputs;
    follower.q = random_inputs(c, 37 + f).q;
    outputs.push_back(block_sparse_attention(tape, tape.input(follower.q), k, v, lists, nullptr, c.shape()));
    const NaiveResult part = naive_attention(c, follower, sees_blocks(lists), false);
    add_in_place(stream, expected.dk, part.dk);
    add_in_place(stream, expected.dv, part.dv);
  }
  for (const Var& out : outputs) out.grad->accumulate(stream, inputs.dout.clone());
  tape.backward(std::span<const Tape::Root>{});
  EXPECT_LE(relative_error(k.grad->value(), expected.dk), 1e-12);
  EXPECT_LE(relative_error(v.grad->value(), expected.dv), 1e-12);
}

TEST(AttentionGradient, NothingIsKeptWithoutATapeThatRecords) {
  const Case c{1, 20, 4, 2, 8, 4, 2, 4};
  const Inputs inputs = random_inputs(c, 38);
  TestStream stream;
  Tape tape(stream, {.recording = false});
  const Var out = window_attention(tape, tape.input(inputs.q), tape.input(inputs.k), tape.input(inputs.v), 4,
                                   nullptr, c.shape());
  EXPECT_FALSE(out.requires_grad());
  EXPECT_EQ(tape.size(), 0u);
}

/// Only some inputs want a gradient.
TEST(AttentionGradient, ConstantsGetNone) {
  const Case c{1, 20, 4, 2, 8, 4, 2, 4};
  const Inputs inputs = random_inputs(c, 39);
  const NaiveResult expected = naive_attention(c, inputs, sees_all(), false);
  for (int wanted = 0; wanted < 3; ++wanted) {
    TestStream stream;
    Tape tape(stream);
    const auto var = [&](int i, const Tensor& t) { return i == wanted ? tape.input(t) : tape.constant(t); };
    const Var q = var(0, inputs.q), k = var(1, inputs.k), v = var(2, inputs.v);
    tape.backward(full_attention(tape, q, k, v, c.shape(), std::nullopt).out, inputs.dout.clone());
    const Var& x = wanted == 0 ? q : (wanted == 1 ? k : v);
    const Tensor& dx = wanted == 0 ? expected.dq : (wanted == 1 ? expected.dk : expected.dv);
    EXPECT_LE(relative_error(x.grad->value(), dx), 1e-12);
  }
}

TEST(RopeGradient, WithAndWithoutNorm) {
  for (const std::int64_t rotary_dim : {0, 4, 6}) {
    Parameter weight = random_parameter({7}, 41, "weight");
    const RopeConfig rope{.theta = 100.0, .rotary_dim = rotary_dim};
    const Tensor x = random_tensor({10, 21}, 41, "x"), documents = random_documents(2, 5, 2);
    check_gradients(
        [&](Tape& tape, const std::vector<Var>& in) {
          return std::vector<Var>{qk_norm_rope(tape, in[0], &weight, 1e-6, 7, 5, rope),
                                  qk_norm_rope(tape, in[0], nullptr, 0, 7, 5, rope, 3),
                                  qk_norm_rope(tape, in[0], &weight, 1e-6, 7, 5, rope, 0, documents)};
        },
        {x}, {&weight});
  }
}

TEST(GateGradient, EveryKindOfGate) {
  constexpr std::int64_t tokens = 7, heads = 3, width = 15;
  const Tensor a = random_tensor({tokens, width}, 42, "a"), b = random_tensor({tokens, width}, 42, "b");
  const Tensor headwise = random_tensor({tokens, heads}, 42, "headwise"),
               elementwise = random_tensor({tokens, width}, 42, "elementwise");
  check_gradients(
      [&](Tape& tape, const std::vector<Var>& x) {
        const std::vector<std::vector<GatedBranch>> sums{
            {{x[0], x[2]}, {x[1], x[3]}}, {{x[0], x[3]}},           {{x[1], x[2]}},
            {{x[0], {}}, {x[1], x[2]}},   {{x[0], {}}, {x[1], {}}}, {{x[0], {}}}};
        std::vector<Var> outputs;
        for (const auto& branches : sums) outputs.push_back(gated_sum(tape, branches, heads));
        return outputs;
      },
      {a, b, headwise, elementwise});
}

}  // namespace
}  // namespace hysparse::testing
