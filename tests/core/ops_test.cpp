// Every op of core/ops on one table of cases: gradients in f64, the split backward, f32 against f64, threads,
// evaluation. Values against naive loops: op_values_test.cpp.
#include <cmath>

#include "core/ops/add.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/swiglu.h"
#include "core/random.h"
#include "tests/core/gradient_check.h"
#include "tests/core/random_targets.h"

namespace hysparse::testing {
namespace {

using Parameters = std::vector<Parameter>;

struct OpCase {
  std::string name;
  std::vector<Shape> inputs;
  std::vector<Shape> parameters;
  std::function<std::vector<Var>(Tape&, const std::vector<Var>&, const Parameters&)> op;
  double longest_sum;  ///< terms of the longest sum in forward and backward, for the tolerance in f32
};

void PrintTo(const OpCase& c, std::ostream* out) {
  *out << c.name;
}

OpCase linear_case(std::int64_t tokens, std::int64_t in, std::int64_t out) {
  return {fmt::format("linear_{}x{}x{}", tokens, in, out),
          {{tokens, in}},
          {{out, in}},
          [](Tape& tape, const std::vector<Var>& x, const Parameters& w) {
            return std::vector<Var>{linear(tape, x[0], w[0])};
          },
          static_cast<double>(std::max({tokens, in, out}))};
}

OpCase rms_norm_case(Shape shape) {
  const std::int64_t width = shape[shape.rank() - 1];
  return {fmt::format("rms_norm_{}_of_{}", width, shape.numel()),
          {shape},
          {{width}},
          [](Tape& tape, const std::vector<Var>& x, const Parameters& w) {
            return std::vector<Var>{rms_norm(tape, x[0], w[0], 1e-5)};
          },
          static_cast<double>(shape.numel())};
}

/// used: 1 the sum, 2 the norm, 3 both.
OpCase add_rms_norm_case(std::int64_t tokens, std::int64_t width, int used) {
  return {fmt::format("add_rms_norm_{}x{}_{}", tokens, width, used),
          {{tokens, width}, {tokens, width}},
          {{width}},
          [used](Tape& tape, const std::vector<Var>& x, const Parameters& w) {
            // An addition before it, so that the gradients of x and delta are not those of leaves.
            const Var doubled = add(tape, x[0], x[0]);
            const ResidualNorm r = add_rms_norm(tape, doubled, x[1], w[0], 1e-5);
            std::vector<Var> outputs;
            if (used & 1) outputs.push_back(r.sum);
            if (used & 2) outputs.push_back(r.norm);
            return outputs;
          },
          static_cast<double>(tokens * width)};
}

/// x used again before the op, so that its gradient is there already when the op adds to it.
OpCase shared_input_case() {
  return {"add_rms_norm_shared_input",
          {{5, 7}, {5, 7}},
          {{7}},
          [](Tape& tape, const std::vector<Var>& x, const Parameters& w) {
            const ResidualNorm r = add_rms_norm(tape, x[0], x[1], w[0], 1e-5);
            const Var again = swiglu(tape, x[0], x[1]);
            return std::vector<Var>{r.sum, r.norm, again, add(tape, x[0], r.norm),
                                    rms_norm(tape, x[0], w[0], 1e-5)};
          },
          70};
}

OpCase same_input_case() {
  return {"add_rms_norm_same_input",
          {{4, 19}},
          {{19}},
          [](Tape& tape, const std::vector<Var>& x, const Parameters& w) {
            const ResidualNorm r = add_rms_norm(tape, x[0], x[0], w[0], 1e-5);
            return std::vector<Var>{r.sum, r.norm, swiglu(tape, x[0], x[0])};
          },
          76};
}

OpCase swiglu_case(std::int64_t tokens, std::int64_t width) {
  return {fmt::format("swiglu_{}x{}", tokens, width),
          {{tokens, width}, {tokens, width}},
          {},
          [](Tape& tape, const std::vector<Var>& x, const Parameters&) {
            return std::vector<Var>{swiglu(tape, x[0], x[1])};
          },
          4};
}

OpCase reshape_case() {
  return {"add_reshape",
          {{6, 4}, {6, 4}},
          {},
          [](Tape& tape, const std::vector<Var>& x, const Parameters&) {
            const Var sum = add(tape, x[0], x[1]);
            const Var heads = reshape(tape, sum, {6, 2, 2});
            return std::vector<Var>{heads, reshape(tape, heads, {24}), sum};
          },
          4};
}

OpCase embedding_case(std::int64_t tokens, std::int64_t vocabulary, std::int64_t width) {
  std::vector<std::int32_t> ids;
  const CounterRandom random(5, "ids");
  for (std::int64_t t = 0; t < tokens; ++t) {
    ids.push_back(static_cast<std::int32_t>(
        random.below(static_cast<std::uint64_t>(t), static_cast<std::uint64_t>(vocabulary))));
  }
  return {fmt::format("embedding_{}x{}x{}", tokens, vocabulary, width),
          {},
          {{vocabulary, width}},
          [ids = Tensor::from(ids, {tokens})](Tape& tape, const std::vector<Var>&, const Parameters& w) {
            return std::vector<Var>{embedding(tape, ids, w[0])};
          },
          static_cast<double>(tokens)};
}

OpCase cross_entropy_case(std::int64_t tokens, std::int64_t width, std::int64_t vocabulary) {
  return {fmt::format("cross_entropy_{}x{}x{}", tokens, width, vocabulary),
          {{tokens, width}},
          {{vocabulary, width}},
          [targets = random_targets(tokens, vocabulary)](Tape& tape, const std::vector<Var>& x,
                                                         const Parameters& w) {
            return std::vector<Var>{linear_cross_entropy(tape, x[0], w[0], targets).loss_sum};
          },
          static_cast<double>(std::max({tokens, width, vocabulary}))};
}

std::vector<OpCase> all_cases() {
  return {linear_case(7, 13, 5),        linear_case(1, 3, 1),        linear_case(0, 4, 6),
          linear_case(70, 33, 65),      rms_norm_case({5, 17}),      rms_norm_case({1, 1}),
          rms_norm_case({0, 8}),        rms_norm_case({3, 2, 5}),    rms_norm_case({300, 3}),
          add_rms_norm_case(5, 19, 1),  add_rms_norm_case(5, 19, 2), add_rms_norm_case(5, 19, 3),
          add_rms_norm_case(0, 19, 3),  shared_input_case(),         same_input_case(),
          swiglu_case(3, 37),           swiglu_case(0, 4),           reshape_case(),
          embedding_case(9, 4, 5),      embedding_case(0, 4, 5),     embedding_case(33, 7, 67),
          cross_entropy_case(11, 5, 9), cross_entropy_case(1, 3, 1), cross_entropy_case(0, 3, 4)};
}

struct Run {
  std::vector<Tensor> outputs, input_grads, parameter_grads;
};

enum class Halves { together, apart };

Run run(const OpCase& c, DType dtype, Halves halves, int threads) {
  TestStream stream(threads);
  Tape tape(stream);
  Run result;
  std::vector<Var> vars;
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    vars.push_back(tape.input(random_tensor(c.inputs[i], 1, fmt::format("x{}", i), 1.0, dtype)));
  }
  Parameters parameters;
  for (std::size_t i = 0; i < c.parameters.size(); ++i) {
    parameters.push_back(random_parameter(c.parameters[i], 2, fmt::format("w{}", i), 0.5, dtype));
  }
  const std::vector<Var> outputs = c.op(tape, vars, parameters);
  const auto roots = random_objective(tape, outputs);
  if (halves == Halves::together) {
    tape.backward(roots);
  } else {
    tape.backward_inputs(roots);
    tape.backward_weights();
  }
  for (const Var& v : outputs) result.outputs.push_back(v.value);
  for (const Var& v : vars) result.input_grads.push_back(v.grad->value());
  for (const Parameter& p : parameters) result.parameter_grads.push_back(p.grad);
  return result;
}

void expect_close(const std::vector<Tensor>& a, const std::vector<Tensor>& b, double tolerance,
                  const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].defined(), b[i].defined()) << what << " " << i;
    if (!a[i].defined()) continue;
    EXPECT_LE(relative_error(a[i], b[i]), tolerance) << what << " " << i;
  }
}

void expect_close(const Run& a, const Run& b, double tolerance) {
  expect_close(a.outputs, b.outputs, tolerance, "output");
  expect_close(a.input_grads, b.input_grads, tolerance, "gradient of input");
  expect_close(a.parameter_grads, b.parameter_grads, tolerance, "gradient of parameter");
}

class Ops : public ::testing::TestWithParam<OpCase> {};

TEST_P(Ops, GradientsAgreeWithDifferences) {
  const OpCase& c = GetParam();
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < c.inputs.size(); ++i)
    inputs.push_back(random_tensor(c.inputs[i], 1, fmt::format("x{}", i)));
  Parameters parameters;
  for (std::size_t i = 0; i < c.parameters.size(); ++i) {
    parameters.push_back(random_parameter(c.parameters[i], 2, fmt::format("w{}", i), 0.5));
  }
  std::vector<Parameter*> pointers;
  for (Parameter& p : parameters) pointers.push_back(&p);
  check_gradients([&](Tape& tape, const std::vector<Var>& x) { return c.op(tape, x, parameters); }, inputs,
                  pointers);
}

TEST_P(Ops, SplitBackwardIsTheSame) {
  expect_close(run(GetParam(), DType::f64, Halves::apart, 2), run(GetParam(), DType::f64, Halves::together, 2),
               0.0);
}

TEST_P(Ops, RunsAreBitwiseEqual) {
  expect_close(run(GetParam(), DType::f32, Halves::together, 3),
               run(GetParam(), DType::f32, Halves::together, 3), 0.0);
}

TEST_P(Ops, Float32AgreesWithDouble) {
  // Rounding of n terms grows as sqrt(n) eps, by norm; 8 covers the few ops in a row.
  const double tolerance = 8 * 0x1p-24 * std::sqrt(GetParam().longest_sum + 1);
  expect_close(run(GetParam(), DType::f32, Halves::together, 2),
               run(GetParam(), DType::f64, Halves::together, 2), tolerance);
}

TEST_P(Ops, ThreadsChangeRoundingAtMost) {
  constexpr double tolerance = 1e-13;  // a few hundred eps of f64
  expect_close(run(GetParam(), DType::f64, Halves::together, 4),
               run(GetParam(), DType::f64, Halves::together, 1), tolerance);
}

TEST_P(Ops, EvaluationKeepsNothing) {
  const OpCase& c = GetParam();
  TestStream stream;
  Tape tape(stream, {.recording = false});
  std::vector<Var> vars;
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    vars.push_back(tape.input(random_tensor(c.inputs[i], 1, fmt::format("x{}", i))));
  }
  Parameters parameters;
  for (std::size_t i = 0; i < c.parameters.size(); ++i) {
    parameters.push_back(random_parameter(c.parameters[i], 2, fmt::format("w{}", i), 0.5));
  }
  for (const Var& v : c.op(tape, vars, parameters)) EXPECT_FALSE(v.requires_grad());
  EXPECT_EQ(tape.size(), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, Ops, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace hysparse::testing
