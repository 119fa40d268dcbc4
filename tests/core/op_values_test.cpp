// The values of the ops of core/ops against naive loops, and what they refuse.
#include <cmath>

#include "core/ops/add.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/scalar.h"
#include "core/ops/swiglu.h"
#include "tests/core/gradient_check.h"
#include "tests/core/random_targets.h"

namespace hysparse::testing {
namespace {

constexpr double rounding = 1e-14;

TEST(Linear, IsTheNaiveProduct) {
  const std::int64_t tokens = 9, in = 21, out = 6;
  const Tensor x = random_tensor({tokens, in}, 1, "x");
  const Parameter w = random_parameter({out, in}, 1, "w");
  TestStream stream;
  Tape tape(stream);
  const Tensor y = linear(tape, tape.constant(x), w).value;
  const Tensor naive = Tensor::zeros({tokens, out}, DType::f64);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t o = 0; o < out; ++o) {
      for (std::int64_t i = 0; i < in; ++i) {
        naive.data<double>()[t * out + o] += x.data<double>()[t * in + i] * w.value.data<double>()[o * in + i];
      }
    }
  }
  EXPECT_LT(relative_error(y, naive), rounding);
}

TEST(Linear, GradientOfTheWeightAccumulates) {
  const Tensor x = random_tensor({4, 3}, 1, "x");
  Parameter w = random_parameter({2, 3}, 1, "w");
  const auto backward = [&] {
    TestStream stream;
    Tape tape(stream);
    tape.backward(random_objective(tape, {linear(tape, tape.constant(x), w)}));
  };
  backward();
  const Tensor once = w.grad.clone();
  backward();
  for (std::int64_t i = 0; i < once.numel(); ++i) {
    EXPECT_DOUBLE_EQ(w.grad.data<double>()[i], 2 * once.data<double>()[i]);
  }
}

TEST(Linear, FrozenWeightGetsNoGradient) {
  Parameter w = random_parameter({2, 3}, 1, "w");
  w.grad = Tensor();
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.input(random_tensor({4, 3}, 1, "x"));
  EXPECT_FALSE(linear(tape, tape.constant(x.value), w).requires_grad());
  tape.backward(random_objective(tape, {linear(tape, x, w)}));
  EXPECT_TRUE(x.grad->defined());
}

TEST(RmsNorm, IsTheNaiveNorm) {
  const std::int64_t rows = 6, width = 37;
  const double eps = 1e-3;
  const Tensor x = random_tensor({rows, width}, 1, "x"), delta = random_tensor({rows, width}, 1, "delta");
  const Parameter w = random_parameter({width}, 1, "w");
  TestStream stream;
  Tape tape(stream);
  const ResidualNorm fused = add_rms_norm(tape, tape.constant(x), tape.constant(delta), w, eps);
  const Tensor sum = add(tape, tape.constant(x), tape.constant(delta)).value;
  EXPECT_EQ(relative_error(fused.sum.value, sum), 0.0);
  EXPECT_EQ(relative_error(fused.norm.value, rms_norm(tape, tape.constant(sum), w, eps).value), 0.0);
  const Tensor naive = Tensor::empty({rows, width}, DType::f64);
  for (std::int64_t r = 0; r < rows; ++r) {
    const double* s = sum.data<double>() + r * width;
    double squares = 0;
    for (std::int64_t i = 0; i < width; ++i) squares += s[i] * s[i];
    for (std::int64_t i = 0; i < width; ++i) {
      naive.data<double>()[r * width + i] =
          s[i] / std::sqrt(squares / static_cast<double>(width) + eps) * w.value.data<double>()[i];
    }
  }
  EXPECT_LT(relative_error(fused.norm.value, naive), rounding);
}

TEST(Swiglu, IsSiluTimesUp) {
  const Tensor gate = Tensor::from<double>({-800, -2, 0, 0.5, 3, 800}, {6});
  const Tensor up = Tensor::from<double>({1, -1, 5, 2, 0.25, 2}, {6});
  TestStream stream;
  Tape tape(stream);
  const Tensor y = swiglu(tape, tape.constant(gate), tape.constant(up)).value;
  for (std::int64_t i = 0; i < 6; ++i) {
    const double z = gate.data<double>()[i];
    EXPECT_NEAR(y.data<double>()[i], z / (1 + std::exp(-z)) * up.data<double>()[i], 1e-13) << z;
  }
}

TEST(Swiglu, ExtremeGatesStayFinite) {
  const Tensor gate = Tensor::from<float>({-200, -100, -88, 88, 100, 1e30f}, {6});
  const Tensor up = Tensor::from<float>({1, 1, 1, 1, 1, 1}, {6});
  TestStream stream;
  Tape tape(stream);
  const Var g = tape.input(gate), u = tape.input(up);
  const Var y = swiglu(tape, g, u);
  tape.backward(y, up.clone());
  for (std::int64_t i = 0; i < 6; ++i) {
    const float z = gate.data<float>()[i];
    EXPECT_NEAR(y.value.data<float>()[i], z > 0 ? z : 0.0f, 1e-30f) << z;
    EXPECT_NEAR(g.grad->value().data<float>()[i], z > 0 ? 1.0f : 0.0f, 1e-30f) << z;
  }
}

TEST(Embedding, TakesRowsAndRefusesForeignIds) {
  const Parameter w = random_parameter({4, 3}, 1, "model.embed_tokens.weight");
  TestStream stream;
  Tape tape(stream);
  const Tensor y = embedding(tape, Tensor::from<std::int32_t>({3, 0, 3}, {3}), w).value;
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(y.data<double>()[i], w.value.data<double>()[9 + i]);
    EXPECT_EQ(y.data<double>()[3 + i], w.value.data<double>()[i]);
    EXPECT_EQ(y.data<double>()[6 + i], w.value.data<double>()[9 + i]);
  }
  for (const std::int32_t foreign : {-1, 4}) {
    try {
      embedding(tape, Tensor::from<std::int32_t>({0, foreign}, {2}), w);
      FAIL() << foreign;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(fmt::format("id {};", foreign)), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("0 to 3"), std::string::npos) << e.what();
    }
  }
}

TEST(CrossEntropy, IsTheNaiveLossOverSeveralChunks) {
  // A row of logits is 8 * V bytes: 200 tokens of a vocabulary of 20000 take four chunks of at most 8 MiB or 64
  // tokens.
  const std::int64_t tokens = 200, width = 3, vocabulary = 20000;
  const Tensor x = random_tensor({tokens, width}, 1, "x");
  Parameter head = random_parameter({vocabulary, width}, 1, "lm_head.weight");
  const Tensor targets = random_targets(tokens, vocabulary);
  TestStream stream;
  Tape tape(stream);
  const Var input = tape.input(x);
  const CrossEntropy ce = linear_cross_entropy(tape, input, head, targets);
  const Tensor dx = Tensor::zeros({tokens, width}, DType::f64),
               dhead = Tensor::zeros({vocabulary, width}, DType::f64);
  double loss = 0;
  std::int64_t counted = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int32_t target = targets.data<std::int32_t>()[t];
    if (target < 0) continue;
    ++counted;
    std::vector<double> p(vocabulary);
    double total = 0;
    for (std::int64_t v = 0; v < vocabulary; ++v) {
      double logit = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        logit += x.data<double>()[t * width + i] * head.value.data<double>()[v * width + i];
      }
      total += p[static_cast<std::size_t>(v)] = std::exp(logit);
    }
    loss -= std::log(p[static_cast<std::size_t>(target)] / total);
    for (std::int64_t v = 0; v < vocabulary; ++v) {
      const double d = p[static_cast<std::size_t>(v)] / total - (v == target ? 1.0 : 0.0);
      for (std::int64_t i = 0; i < width; ++i) {
        dx.data<double>()[t * width + i] += 0.5 * d * head.value.data<double>()[v * width + i];
        dhead.data<double>()[v * width + i] += 0.5 * d * x.data<double>()[t * width + i];
      }
    }
  }
  EXPECT_EQ(check_targets(targets, head.name, vocabulary), counted);
  EXPECT_NEAR(scalar_value(ce.loss) / loss, 1.0, 1e-13);
  EXPECT_EQ(scalar_value(ce.loss_sum.value), scalar_value(ce.loss));
  const Tape::Root root{ce.loss_sum, 0.5};
  tape.backward({&root, 1});
  EXPECT_LT(relative_error(input.grad->value(), dx), 1e-12);
  EXPECT_LT(relative_error(head.grad, dhead), 1e-12);
}

TEST(CrossEntropy, MemoryIsThatOfAChunk) {
  const std::int64_t tokens = 512, width = 4,
                     vocabulary = 40000;  // all logits: 82 MB in f32, a chunk of 64: 10 MB
  const Tensor x = random_tensor({tokens, width}, 1, "x", 1.0, DType::f32);
  const Parameter head = random_parameter({vocabulary, width}, 1, "lm_head.weight", 1.0, DType::f32);
  const Tensor targets = random_targets(tokens, vocabulary);
  TestStream stream;
  Tape tape(stream);
  reset_memory_peak();
  const std::int64_t before = memory_use().live_bytes;
  const CrossEntropy ce = linear_cross_entropy(tape, tape.input(x), head, targets);
  const Tape::Root root{ce.loss_sum, 1.0};
  tape.backward({&root, 1});
  const std::int64_t chunk = 64 * vocabulary * 4;
  EXPECT_LT(memory_use().peak_bytes - before, chunk + (1 << 16));
}

TEST(CrossEntropy, RefusesForeignTargets) {
  const Parameter head = random_parameter({5, 3}, 1, "lm_head.weight");
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.constant(random_tensor({1, 3}, 1, "x"));
  EXPECT_THROW(linear_cross_entropy(tape, x, head, Tensor::from<std::int32_t>({5}, {1})), Error);
}

TEST(CrossEntropy, NonFiniteLogitsShowInTheLoss) {
  const Parameter head = random_parameter({5, 3}, 1, "lm_head.weight", 1.0, DType::f32);
  TestStream stream;
  Tape tape(stream);
  const Tensor x = Tensor::from<float>({std::nanf(""), 1, 1}, {1, 3});
  const Tensor target = Tensor::from<std::int32_t>({2}, {1});
  EXPECT_FALSE(std::isfinite(scalar_value(linear_cross_entropy(tape, tape.constant(x), head, target).loss)));
}

}  // namespace
}  // namespace hysparse::testing
