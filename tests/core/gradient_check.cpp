#include "tests/core/gradient_check.h"

#include <algorithm>
#include <cmath>

#include "core/random.h"

namespace hysparse::testing {
namespace {

/// sum over outputs of <weights, output>; weights a pure function of the output's number.
double objective(const std::vector<Var>& outputs, const std::vector<Tensor>& weights) {
  double sum = 0;
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    const double* y = outputs[o].value.data<double>();
    const double* w = weights[o].data<double>();
    for (std::int64_t i = 0; i < outputs[o].value.numel(); ++i) sum += y[i] * w[i];
  }
  return sum;
}

std::vector<Tensor> output_weights(const std::vector<Var>& outputs) {
  std::vector<Tensor> weights;
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    weights.push_back(random_tensor(outputs[o].shape(), 77, fmt::format("weight{}", o)));
  }
  return weights;
}

/// sum(weights . output) as an op, so that one backward reaches every output. weights f64.
Var weighted_sum(Tape& tape, const Var& output, const Tensor& weights) {
  const DType dtype = output.value.dtype();
  const Device device = output.value.device();
  const Var wide{output.value.to_device(Device{}).to(DType::f64), nullptr};
  const Tensor sum = Tensor::from<double>({objective({wide}, {weights})}, {1}).to(accumulation_dtype(dtype));
  const Var out = tape.output(sum.to_device(device), {output});
  tape.record("weighted_sum", {out}, [stream = tape.stream(), grad = output.grad, dtype, device, weights] {
    if (grad) grad->accumulate(stream, weights.clone().to(dtype).to_device(device));
  });
  return out;
}

}  // namespace

Tensor random_tensor(Shape shape, std::uint64_t seed, const std::string& name, double scale, DType dtype) {
  Tensor t = Tensor::empty(shape, DType::f64);
  const CounterRandom random(seed, name);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<double>()[i] = scale * random.normal(static_cast<std::uint64_t>(i));
  return t.to(dtype);
}

Parameter random_parameter(Shape shape, std::uint64_t seed, const std::string& name, double scale,
                           DType dtype) {
  return {name, random_tensor(shape, seed, name, scale, dtype), Tensor::zeros(shape, dtype)};
}

double relative_error(const Tensor& a, const Tensor& b) {
  HYSPARSE_CHECK(a.shape() == b.shape(), "{} {}", a.shape().str(), b.shape().str());
  const Tensor x = a.to(DType::f64), y = b.to(DType::f64);
  double difference = 0, norm = 0;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double d = x.data<double>()[i] - y.data<double>()[i];
    difference += d * d;
    norm += y.data<double>()[i] * y.data<double>()[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(norm), 1e-30);
}

std::vector<Tape::Root> random_objective(Tape& tape, const std::vector<Var>& outputs) {
  const std::vector<Tensor> weights = output_weights(outputs);
  std::vector<Tape::Root> roots;
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    roots.push_back({weighted_sum(tape, outputs[o], weights[o])});
  }
  return roots;
}

void check_gradients(const CheckedOp& op, const std::vector<Tensor>& inputs, std::vector<Parameter*> parameters,
                     const GradientCheck& options) {
  TestStream stream;
  std::vector<Tensor> weights;
  std::vector<Var> vars;
  {
    Tape tape(stream);
    for (const Tensor& x : inputs) vars.push_back(tape.input(x));
    for (Parameter* p : parameters) p->grad.zero_();
    const std::vector<Var> outputs = op(tape, vars);
    weights = output_weights(outputs);
    tape.backward(random_objective(tape, outputs));
  }
  const auto evaluate = [&] {
    Tape tape(stream, {.recording = false});
    std::vector<Var> constants;
    for (const Tensor& x : inputs) constants.push_back(tape.constant(x));
    return objective(op(tape, constants), weights);
  };
  const auto check = [&](const std::string& what, const Tensor& value, const Tensor& gradient) {
    const std::int64_t stride = std::max<std::int64_t>(1, value.numel() / options.max_elements);
    double difference = 0, norm = 0;
    for (std::int64_t i = 0; i < value.numel(); i += stride) {
      double& x = value.data<double>()[i];
      const double original = x;
      x = original + options.step;
      const double up = evaluate();
      x = original - options.step;
      const double down = evaluate();
      x = original;
      const double numeric = (up - down) / (2 * options.step);
      const double analytic = gradient.defined() ? gradient.data<double>()[i] : 0.0;
      difference += (numeric - analytic) * (numeric - analytic);
      norm += numeric * numeric;
    }
    EXPECT_LT(std::sqrt(difference), options.tolerance * std::max(std::sqrt(norm), 1e-3))
        << what << ", norm " << std::sqrt(norm);
  };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check(fmt::format("input {}", i), inputs[i], vars[i].grad->value());
  }
  for (Parameter* p : parameters) check(p->name, p->value, p->grad);
}

}  // namespace hysparse::testing
