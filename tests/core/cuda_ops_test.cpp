// Ops on the tape, forward and backward, on the GPU against the CPU in f32.
#include "core/ops/add.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/scalar.h"
#include "core/ops/swiglu.h"
#include "tests/core/gpu_test.h"
#include "tests/core/random_targets.h"

namespace hysparse::testing {
namespace {

/// Outputs and gradients of one run of an op.
struct Outcome {
  std::vector<Tensor> outputs, input_gradients, weight_gradients;
};

using Op = std::function<std::vector<Var>(Tape&, const std::vector<Var>&, const std::vector<Parameter>&)>;

Outcome run(const Stream& stream, DType dtype, const Op& op, const std::vector<Tensor>& inputs,
            const std::vector<Tensor>& weights) {
  Tape tape(stream);
  std::vector<Var> x;
  std::vector<Parameter> w;
  const auto there = [&](const Tensor& t) { return t.to(dtype).to_device(stream.device); };
  for (const Tensor& t : inputs) x.push_back(tape.input(there(t)));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    // Gradients add to what is there.
    const Tensor grad = random_tensor(weights[i].shape(), 9, fmt::format("grad{}", i), 1.0, DType::f32);
    w.push_back({fmt::format("w{}", i), there(weights[i]), grad.clone().to_device(stream.device)});
  }
  const std::vector<Var> outputs = op(tape, x, w);
  tape.backward(random_objective(tape, outputs));
  Outcome outcome;
  for (const Var& v : outputs) outcome.outputs.push_back(v.value);
  for (const Var& v : x) outcome.input_gradients.push_back(v.grad->value());
  for (const Parameter& p : w) outcome.weight_gradients.push_back(p.grad);
  return outcome;
}

/// Inside an op, what is handed on between kernels rounds once more.
void expect_like_cpu(const Op& op, const std::vector<Shape>& inputs, const std::vector<Shape>& weights,
                     double roundings = 1) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(dtype));
    std::vector<Tensor> x, w;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      x.push_back(random_for(dtype, inputs[i], 1, fmt::format("x{}", i)));
    for (std::size_t i = 0; i < weights.size(); ++i)
      w.push_back(random_for(dtype, weights[i], 1, fmt::format("w{}", i)));
    TestStream cpu;
    const Outcome expected = run(cpu, DType::f32, op, x, w), got = run(gpu(), dtype, op, x, w);
    // The objective's weights round to bf16 on the GPU: one rounding in every gradient.
    const double bound = bound_of(dtype) * roundings;
    const auto compare = [&](const std::vector<Tensor>& a, const std::vector<Tensor>& b, const char* what) {
      for (std::size_t i = 0; i < a.size(); ++i) EXPECT_LE(gpu_error(a[i], b[i]), bound) << what << " " << i;
    };
    compare(got.outputs, expected.outputs, "output");
    compare(got.input_gradients, expected.input_gradients, "gradient of input");
    compare(got.weight_gradients, expected.weight_gradients, "gradient of weight");
    for (const Tensor& t : got.weight_gradients) EXPECT_EQ(t.dtype(), DType::f32);
  }
}

TEST(CudaOps, Linear) {
  expect_like_cpu(
      [](Tape& tape, const auto& x, const auto& w) { return std::vector{linear(tape, x[0], w[0])}; },
      {{37, 64}}, {{48, 64}});
}

TEST(CudaOps, LinearTwiceFromOneInput) {
  expect_like_cpu(
      [](Tape& tape, const auto& x, const auto& w) {
        return std::vector{linear(tape, x[0], w[0]), linear(tape, x[0], w[1]), linear(tape, x[0], w[0])};
      },
      {{65, 32}}, {{24, 32}, {8, 32}}, 2);
}

TEST(CudaOps, AddAndReshape) {
  expect_like_cpu(
      [](Tape& tape, const auto& x, const auto&) {
        return std::vector{reshape(tape, add(tape, x[0], x[1]), {5, 6, 7})};
      },
      {{30, 7}, {30, 7}}, {});
}

TEST(CudaOps, RmsNorm) {
  expect_like_cpu(
      [](Tape& tape, const auto& x, const auto& w) { return std::vector{rms_norm(tape, x[0], w[0], 1e-6)}; },
      {{70, 256}}, {{256}});
}

TEST(CudaOps, AddRmsNorm) {
  expect_like_cpu(
      [](Tape& tape, const auto& x, const auto& w) {
        const ResidualNorm r = add_rms_norm(tape, x[0], x[1], w[0], 1e-6);
        return std::vector{r.sum, r.norm};
      },
      {{70, 256}, {70, 256}}, {{256}}, 2);
}

TEST(CudaOps, Swiglu) {
  for (const std::int64_t width : {64, 63}) {
    expect_like_cpu(
        [](Tape& tape, const auto& x, const auto&) { return std::vector{swiglu(tape, x[0], x[1])}; },
        {{33, width}, {33, width}}, {});
    expect_like_cpu(
        [](Tape& tape, const auto& x, const auto&) { return std::vector{swiglu(tape, x[0], x[0])}; },
        {{33, width}}, {}, 2);
  }
}

TEST(CudaOps, Embedding) {
  const Tensor ids = random_targets(300, 50);
  for (std::int64_t t = 0; t < 300; ++t) ids.data<std::int32_t>()[t] = std::max(ids.data<std::int32_t>()[t], 0);
  expect_like_cpu(
      [&](Tape& tape, const auto&, const auto& w) {
        return std::vector{embedding(tape, ids.to_device(tape.stream().device), w[0])};
      },
      {}, {{50, 64}});
}

/// Loss and gradients of the head, whose logits round to bf16 in between.
void expect_cross_entropy(std::int64_t tokens, std::int64_t width, std::int64_t vocabulary) {
  const Tensor targets = random_targets(tokens, vocabulary);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(fmt::format("{} {} x {} x {}", dtype_name(dtype), tokens, width, vocabulary));
    const Tensor x = random_for(dtype, {tokens, width}, 1, "x"),
                 w = random_for(dtype, {vocabulary, width}, 1, "w", 0.5);
    const auto run_on = [&](const Stream& stream, DType values) {
      Tape tape(stream);
      const auto there = [&](const Tensor& t) { return t.to(values).to_device(stream.device); };
      const Var input = tape.input(there(x));
      const Parameter head{"head", there(w), Tensor::zeros(w.shape(), DType::f32, stream.device)};
      const CrossEntropy ce = linear_cross_entropy(tape, input, head, targets.to_device(stream.device));
      EXPECT_EQ(ce.loss_sum.value.dtype(), DType::f32);
      tape.backward(std::vector<Tape::Root>{{ce.loss_sum, 1.0 / static_cast<double>(tokens)}});
      return std::vector{ce.loss, ce.loss_sum.value, input.grad->value(), head.grad};
    };
    TestStream cpu;
    const std::vector<Tensor> expected = run_on(cpu, DType::f32), got = run_on(gpu(), dtype);
    for (std::size_t i = 0; i < got.size(); ++i)
      EXPECT_LE(gpu_error(got[i], expected[i]), 2 * bound_of(dtype)) << i;
    const std::vector<Tensor> again = run_on(gpu(), dtype);
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].to(DType::f64).to_vector<double>(), again[i].to(DType::f64).to_vector<double>()) << i;
    }
  }
}

TEST(CudaOps, CrossEntropyOfOneChunk) {
  expect_cross_entropy(50, 32, 1000);
  expect_cross_entropy(1, 8, 3);
}

TEST(CudaOps, CrossEntropyOfSeveralChunks) {
  // 256 MiB of logits are 384 rows of 160000 in f32, 768 in bf16.
  expect_cross_entropy(800, 8, 160000);
}

}  // namespace
}  // namespace hysparse::testing
