// Experts on the GPU against the CPU in f32: values, gradients, uneven loads, sizes off the tiles.
#include "core/backend.h"
#include "moe/cpu/experts.h"
#include "moe/cuda/experts.h"
#include "moe/dispatch.h"
#include "tests/moe/cuda_moe_test.h"

namespace hysparse::testing {
namespace {

struct Case {
  std::string name;
  std::int64_t experts, hidden_size, width;
  Tensor ids;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::vector<Case> all_cases() {
  return {{"odd", 4, 5, 3, random_ids(10, 2, 4)},
          {"odd_tiles", 3, 131, 67, random_ids(140, 2, 3)},
          {"small", 4, 16, 8, random_ids(10, 2, 4)},
          {"one_tile", 2, 128, 128, random_ids(64, 1, 2)},
          {"off_tiles", 5, 136, 72, random_ids(333, 3, 5)},
          {"tiles", 8, 256, 192, random_ids(700, 2, 8)},
          {"wide", 3, 1032, 648, random_ids(200, 2, 3)},
          {"many_experts", 300, 64, 32, random_ids(150, 4, 300)},
          {"fewer_tokens_than_experts", 9, 40, 24, random_ids(2, 2, 9)},
          {"all_to_one", 4, 72, 40, repeated(2500, {2})},
          {"all_experts", 3, 64, 64, random_ids(130, 3, 3)},
          {"one_expert", 1, 24, 16, repeated(4, {0})},
          {"dropped", 6, 64, 136, with_dropped(random_ids(300, 3, 6), 4)},
          {"all_dropped", 3, 32, 16, repeated(3, {-1, -1})},
          {"no_tokens", 4, 64, 32, random_ids(0, 2, 4)},
          {"one_token", 4, 8, 8, random_ids(1, 1, 4)}};
}

struct Outcome {
  std::vector<Tensor> values, weight_gradients;
};

/// Experts over x twice, with other weights of the slots, so that gradients add. In dtype on the GPU, of the
/// same numbers in f32 on the CPU.
Outcome run(const Stream& stream, DType dtype, const Case& c, bool apart = false) {
  const DType here = stream.device.is_cpu() ? DType::f32 : dtype;
  const auto there = [&](const Tensor& t) { return t.to(here).to_device(stream.device); };
  const auto parameter = [&](Shape shape, const char* name) {
    const double scale = 1 / std::sqrt(static_cast<double>(shape[2]));
    return Parameter{name, there(random_for(dtype, shape, 1, name, scale)),
                     random_tensor(shape, 9, name, 0.1, DType::f32).to_device(stream.device)};
  };
  const Parameter gate = parameter({c.experts, c.width, c.hidden_size}, "gate"),
                  up = parameter({c.experts, c.width, c.hidden_size}, "up"),
                  down = parameter({c.experts, c.hidden_size, c.width}, "down");
  const auto ep = local_communicator("ep");
  Tape tape(stream);
  const Var x = tape.input(there(random_for(dtype, {c.ids.dim(0), c.hidden_size}, 1, "x")));
  Outcome result;
  std::vector<Var> outputs, weights;
  for (const char* name : {"first", "second"}) {
    Routing routing;
    routing.expert_ids = c.ids.to_device(stream.device);
    routing.weights =
        tape.input(random_tensor(c.ids.shape(), 1, name, 1.0, DType::f32).to_device(stream.device));
    weights.push_back(routing.weights);
    outputs.push_back(moe_experts(tape, x, routing, {&gate, &up, &down}, c.experts, *ep));
  }
  const auto roots = random_objective(tape, outputs);
  if (apart) {
    tape.backward_inputs(roots);
    tape.backward_weights();
  } else {
    tape.backward(roots);
  }
  for (const Var& v : outputs) result.values.push_back(v.value);
  result.values.push_back(x.grad->value());
  for (const Var& v : weights) result.values.push_back(v.grad->value());
  result.weight_gradients = {gate.grad, up.grad, down.grad};
  return result;
}

class ExpertsCuda : public ::testing::TestWithParam<Case> {};

TEST_P(ExpertsCuda, AreLikeTheCpu) {
  TestStream cpu;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(dtype));
    const Outcome got = run(gpu(), dtype, GetParam()), expected = run(cpu, dtype, GetParam());
    for (std::size_t i = 0; i < got.values.size(); ++i)
      EXPECT_LE(gpu_error(got.values[i], expected.values[i]), experts_bound(dtype)) << i;
    for (std::size_t i = 0; i < got.weight_gradients.size(); ++i)
      EXPECT_LE(gpu_error(got.weight_gradients[i], expected.weight_gradients[i]), experts_bound(dtype)) << i;
  }
}

void expect_bitwise(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(gpu_error(a[i], b[i].to_device(Device{})), 0) << i;
}

TEST_P(ExpertsCuda, SplitBackwardAndRepeatsAreBitwiseTheSame) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Outcome once = run(gpu(), dtype, GetParam()), again = run(gpu(), dtype, GetParam(), true);
    expect_bitwise(once.values, again.values);
    expect_bitwise(once.weight_gradients, again.weight_gradients);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExpertsCuda, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

// Rows wider than the features, as they come from other ranks; gradients of one matrix alone; experts without
// rows keep theirs.
TEST(ExpertsCudaKernels, ReadRowsWiderThanTheFeatures) {
  const std::int64_t tokens = 150, k = 2, experts = 6, d = 64, f = 40;
  TestStream cpu;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(dtype));
    const auto run = [&](const Stream& stream, DType here, bool is_wide) {
      const auto there = [&](const Tensor& t) { return t.to(here).to_device(stream.device); };
      const auto empty = [&](Shape shape) { return Tensor::zeros(shape, here, stream.device); };
      const Tensor ids = random_ids(tokens, k, experts - 2).to_device(stream.device);  // none for the last two
      const ExpertOrder order = order_by_expert(stream, ids, experts, tokens * k);
      const Tensor narrow = random_for(dtype, {tokens, d}, 1, "x");
      Tensor x = narrow;
      if (is_wide) {
        x = random_for(dtype, {tokens, d + 24}, 1, "wide");
        for (std::int64_t i = 0; i < tokens * d; ++i)
          x.data<float>()[i / d * (d + 24) + i % d] = narrow.data<float>()[i];
      }
      const cpu::ExpertRows rows{order.offsets, order.sources, order.assignments};
      const cpu::ExpertWeightTensors weights{there(random_for(dtype, {experts, f, d}, 1, "gate", 0.2)),
                                             there(random_for(dtype, {experts, f, d}, 1, "up", 0.2)),
                                             there(random_for(dtype, {experts, d, f}, 1, "down", 0.2))};
      const Tensor slots = random_for(DType::f32, {tokens, k}, 1, "slots").to_device(stream.device);
      const std::int64_t m = tokens * k;
      const cpu::ExpertsForward forward{rows,          weights,       there(x),     slots,
                                        empty({m, f}), empty({m, f}), empty({m, d})};
      HYSPARSE_LAUNCH(stream, experts_forward, forward);
      cpu::ExpertsBackward backward{
          rows,          weights,       there(x),      slots,
          forward.gate,  forward.up,    empty({m, d}), Tensor::zeros({m}, DType::f32, stream.device),
          empty({m, f}), empty({m, f}), empty({m, f}), {}};
      HYSPARSE_LAUNCH(stream, experts_backward, backward);
      std::vector<Tensor> results{forward.out, backward.drows, backward.dslots};
      for (int only = 0; only < 3; ++only) {
        const Shape shape = only < 2 ? Shape{experts, f, d} : Shape{experts, d, f};
        const Tensor dweight = random_tensor(shape, 9, "grad", 1.0, DType::f32).to_device(stream.device);
        const cpu::ExpertWeightTensors dweights{only == 0 ? dweight : Tensor(), only == 1 ? dweight : Tensor(),
                                                only == 2 ? dweight : Tensor()};
        const cpu::ExpertsWeightGradient gradient{
            rows,           there(x),     there(x),        backward.dout_rows,
            backward.dgate, backward.dup, backward.hidden, dweights};
        HYSPARSE_LAUNCH(stream, experts_weight_gradient, gradient);
        results.push_back(dweight);
      }
      return results;
    };
    const auto expected = run(cpu, DType::f32, false);
    for (const bool is_wide : {false, true}) {
      const auto got = run(gpu(), dtype, is_wide);
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_LE(gpu_error(got[i], expected[i]), experts_bound(dtype)) << is_wide << " " << i;
      for (std::size_t i = 3; i < 6; ++i) {
        const Tensor untouched = random_tensor(expected[i].shape(), 9, "grad", 1.0, DType::f32);
        EXPECT_EQ(got[i].slice(experts - 2, experts).to_vector<float>(),
                  untouched.slice(experts - 2, experts).to_vector<float>());
      }
    }
  }
}

}  // namespace
}  // namespace hysparse::testing
