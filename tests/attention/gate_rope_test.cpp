/// Values of gated_sum and qk_norm_rope against plain formulas.
#include <cmath>

#include "attention/gate.h"
#include "attention/rope.h"
#include "tests/attention/documents.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

constexpr double tolerance_f64 = 1e-12;
constexpr double tolerance_f32 = 1e-6;  // 8 eps

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

/// The definition: normalise each head, then turn features i and i + rotary_dim / 2 by position * theta^(-2 i /
/// rotary_dim).
Tensor naive_norm_rope(const Tensor& x, const Tensor& weight, double eps, std::int64_t head_dim,
                       std::int64_t seq_len, const RopeConfig& rope, std::int64_t start,
                       const Tensor& documents = {}) {
  const Tensor y = x.clone();
  const std::int64_t half = rope.rotary_dim / 2;
  for (std::int64_t at = 0; at < x.numel(); at += head_dim) {
    double* head = y.data<double>() + at;
    const std::int64_t row = at / x.dim(1);
    const auto position = static_cast<double>(start + row % seq_len -
                                              (documents.defined() ? documents.data<std::int32_t>()[row] : 0));
    if (weight.defined()) {
      double mean = 0;
      for (std::int64_t e = 0; e < head_dim; ++e) mean += head[e] * head[e] / static_cast<double>(head_dim);
      for (std::int64_t e = 0; e < head_dim; ++e) head[e] *= weight.data<double>()[e] / std::sqrt(mean + eps);
    }
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle =
          position * std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim));
      const double a = head[i], b = head[i + half];
      head[i] = a * std::cos(angle) - b * std::sin(angle);
      head[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
  }
  return y;
}

struct RopeCase {
  std::int64_t sequences, seq_len, heads, head_dim, rotary_dim, start;
};

TEST(Rope, EqualsTheDefinition) {
  TestStream stream;
  for (const RopeCase& c :
       {RopeCase{1, 1, 1, 1, 0, 0}, RopeCase{2, 5, 3, 7, 6, 0}, RopeCase{3, 200, 2, 32, 32, 0},
        RopeCase{1, 70, 4, 64, 16, 0}, RopeCase{1, 3, 2, 128, 128, 4093}, RopeCase{1, 1, 2, 16, 16, 777}}) {
    const Tensor x = random_tensor({c.sequences * c.seq_len, c.heads * c.head_dim}, 61, "x");
    const Parameter weight = random_parameter({c.head_dim}, 61, "weight");
    const RopeConfig rope{.theta = 10000.0, .rotary_dim = c.rotary_dim};
    for (const bool norm : {false, true}) {
      const Tensor expected =
          naive_norm_rope(x, norm ? weight.value : Tensor(), 1e-5, c.head_dim, c.seq_len, rope, c.start);
      Tape tape(stream);
      const Var y = qk_norm_rope(tape, tape.input(x), norm ? &weight : nullptr, 1e-5, c.head_dim, c.seq_len,
                                 rope, c.start);
      EXPECT_LE(relative_error(y.value, expected), tolerance_f64);
      Parameter weight_f32{"weight", weight.value.to(DType::f32), {}};
      const Var z = qk_norm_rope(tape, tape.input(x.to(DType::f32)), norm ? &weight_f32 : nullptr, 1e-5,
                                 c.head_dim, c.seq_len, rope, c.start);
      EXPECT_LE(relative_error(z.value, expected), tolerance_f32);
    }
  }
}

TEST(Rope, PositionsCountFromTheDocument) {
  for (const RopeCase& c : {RopeCase{2, 5, 3, 7, 6, 0}, RopeCase{3, 200, 2, 32, 32, 0}}) {
    TestStream stream;
    Tape tape(stream, {.recording = false});
    const RopeConfig rope{.theta = 10000.0, .rotary_dim = c.rotary_dim};
    const Tensor x = random_tensor({c.sequences * c.seq_len, c.heads * c.head_dim}, 66, "x"),
                 documents = random_documents(c.sequences, c.seq_len, 4);
    const Tensor expected = naive_norm_rope(x, {}, 0, c.head_dim, c.seq_len, rope, 0, documents);
    const Tensor y =
        qk_norm_rope(tape, tape.constant(x), nullptr, 0, c.head_dim, c.seq_len, rope, 0, documents).value;
    EXPECT_LE(relative_error(y, expected), tolerance_f64);
  }
}

TEST(Rope, FarPositionsAreExact) {
  TestStream stream;
  Tape tape(stream, {.recording = false});
  const RopeConfig rope{.theta = 640000.0, .rotary_dim = 8};
  const Tensor x = random_tensor({32768, 8}, 62, "x");
  const Tensor expected = naive_norm_rope(x, {}, 0, 8, 32768, rope, 0);
  EXPECT_LE(relative_error(qk_norm_rope(tape, tape.constant(x), nullptr, 0, 8, 32768, rope).value, expected),
            tolerance_f64);
}

/// The gradient of x adds to what is there, and the weight's sum does not depend on the threads.
TEST(Rope, BackwardAddsAndIsTheSameOnAnyThreads) {
  const Tensor x = random_tensor({300, 64}, 63, "x"), dy = random_tensor({300, 64}, 63, "dy"),
               before = random_tensor({300, 64}, 63, "before");
  std::vector<Tensor> weights, inputs;
  for (const int threads : {1, 3}) {
    TestStream stream(threads);
    Tape tape(stream);
    Parameter weight = random_parameter({32}, 63, "weight");
    const Var in = tape.input(x);
    const Var y = qk_norm_rope(tape, in, &weight, 1e-6, 32, 300, {.theta = 10000.0, .rotary_dim = 32});
    if (threads == 3) in.grad->accumulate(stream, before.clone());
    tape.backward(y, dy.clone());
    weights.push_back(weight.grad);
    inputs.push_back(in.grad->value());
  }
  EXPECT_EQ(weights[0].to_vector<double>(), weights[1].to_vector<double>());
  TestStream stream;
  add_in_place(stream, inputs[0], before);
  EXPECT_LE(relative_error(inputs[1], inputs[0]), tolerance_f64);
}

TEST(Gate, EqualsTheDefinition) {
  TestStream stream;
  for (const std::int64_t tokens : {0, 1, 7, 200}) {
    constexpr std::int64_t heads = 3, head_dim = 17, width = heads * head_dim;
    const Tensor a = random_tensor({tokens, width}, 64, "a"), b = random_tensor({tokens, width}, 64, "b");
    const Tensor headwise = random_tensor({tokens, heads}, 64, "headwise", 3.0);
    const Tensor elementwise = random_tensor({tokens, width}, 64, "elementwise", 3.0);
    const Tensor expected = Tensor::empty({tokens, width}, DType::f64);
    for (std::int64_t i = 0; i < expected.numel(); ++i) {
      expected.data<double>()[i] = sigmoid(headwise.data<double>()[i / head_dim]) * a.data<double>()[i] +
                                   sigmoid(elementwise.data<double>()[i]) * b.data<double>()[i];
    }
    for (const DType dtype : {DType::f64, DType::f32}) {
      Tape tape(stream);
      const std::vector<GatedBranch> branches{{tape.input(a.to(dtype)), tape.input(headwise.to(dtype))},
                                              {tape.input(b.to(dtype)), tape.input(elementwise.to(dtype))}};
      EXPECT_LE(relative_error(gated_sum(tape, branches, heads).value, expected),
                dtype == DType::f64 ? tolerance_f64 : tolerance_f32);
    }
  }
}

TEST(Gate, ExtremeLogits) {
  TestStream stream;
  Tape tape(stream);
  const Tensor x = Tensor::from<float>({2, 3, 4}, {3, 1}),
               logits = Tensor::from<float>({-1e4f, 1e4f, 0}, {3, 1});
  const std::vector<GatedBranch> branches{{tape.input(x), tape.input(logits)}};
  EXPECT_EQ(gated_sum(tape, branches, 1).value.to_vector<float>(), (std::vector<float>{0, 3, 2}));
}

TEST(Gate, OneBranchWithoutGateIsItself) {
  TestStream stream;
  Tape tape(stream);
  const std::vector<GatedBranch> branches{{tape.input(random_tensor({4, 6}, 65, "x")), {}}};
  const Var y = gated_sum(tape, branches, 2);
  EXPECT_EQ(y.grad, branches[0].x.grad);
  EXPECT_EQ(tape.size(), 0u);
}

}  // namespace
}  // namespace hysparse::testing
