// The router and its losses on the GPU against the CPU in f32.
#include "moe/cpu/router.h"
#include "moe/cuda/router.h"
#include "moe/router.h"
#include "tests/moe/cuda_moe_test.h"

namespace hysparse::testing {
namespace {

struct Case {
  std::string name;
  std::int64_t tokens, seq_len, hidden_size;
  MoeConfig config;
  bool bias = false;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::vector<Case> all_cases() {
  MoeConfig sigmoid{.num_experts = 6, .top_k = 2};
  MoeConfig softmax = sigmoid;
  softmax.scoring = RouterScoring::softmax;
  MoeConfig plain = softmax;
  plain.normalize_top_k = false;
  plain.routed_scaling = 2.5;
  MoeConfig wide{.num_experts = 512, .top_k = 10, .routed_scaling = 1.3};
  MoeConfig odd{.num_experts = 37, .top_k = 5, .scoring = RouterScoring::softmax};
  MoeConfig all{.num_experts = 33, .top_k = 33};
  MoeConfig one{.num_experts = 1, .top_k = 1};
  MoeConfig capacity = sigmoid;
  capacity.capacity_factor = 0.8;
  MoeConfig tight = wide;
  tight.capacity_factor = 0.5;
  MoeConfig balanced{.num_experts = 64, .top_k = 8};
  balanced.balanced_routing = true;
  MoeConfig many{.num_experts = 3000, .top_k = 4};
  return {{"sigmoid", 96, 32, 16, sigmoid},
          {"sigmoid_bias", 300, 100, 64, sigmoid, true},
          {"softmax", 65, 13, 7, softmax, true},
          {"plain", 129, 43, 24, plain},
          {"wide", 300, 150, 128, wide, true},
          {"odd", 77, 11, 19, odd},
          {"all_experts", 40, 40, 8, all},
          {"one_expert", 9, 3, 8, one},
          {"capacity", 600, 200, 16, capacity, true},
          {"capacity_wide", 900, 450, 64, tight},
          {"balanced", 130, 65, 32, balanced},
          {"many", 50, 25, 40, many},
          {"no_tokens", 0, 4, 8, sigmoid},
          {"one_token", 1, 1, 8, sigmoid}};
}

struct Result {
  Routing routing;
  Tensor balance, z, dx, dgate;
};

Result run(const Stream& stream, DType dtype, const Case& c, const Tensor& x, const Tensor& gate,
           const Tensor& chosen) {
  const auto there = [&](const Tensor& t) { return t.to(dtype).to_device(stream.device); };
  const Parameter parameter{"gate", there(gate),
                            random_tensor(gate.shape(), 9, "grad", 1.0, DType::f32).to_device(stream.device)};
  const Tensor bias =
      c.bias ? random_tensor({c.config.num_experts}, 3, "bias", 0.3, DType::f32).to_device(stream.device)
             : Tensor();
  Tape tape(stream);
  const Var input = tape.input(there(x));
  Result r;
  r.routing = route(tape, input, parameter, bias, c.config, c.seq_len, {},
                    chosen.defined() ? chosen.to_device(stream.device) : Tensor());
  const Var balance = load_balance_loss(tape, r.routing, c.seq_len), z = z_loss(tape, r.routing);
  r.balance = balance.value;
  r.z = z.value;
  tape.backward(random_objective(tape, {r.routing.weights, r.routing.probabilities, balance, z}));
  r.dx = input.grad->value();
  r.dgate = parameter.grad;
  return r;
}

class RouterCuda : public ::testing::TestWithParam<Case> {};

TEST_P(RouterCuda, IsLikeTheCpu) {
  const Case& c = GetParam();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(dtype));
    const Tensor x = random_for(dtype, {c.tokens, c.hidden_size}, 1, "x"),
                 gate = random_for(dtype, {c.config.num_experts, c.hidden_size}, 1, "gate", 0.3);
    TestStream cpu;
    const Result expected = run(cpu, DType::f32, c, x, gate, {});
    // Once by its own choices, once by given ones.
    for (const Tensor& chosen : {Tensor(), expected.routing.chosen_ids}) {
      const Result got = run(gpu(), dtype, c, x, gate, chosen);
      expect_same_ids(got.routing.chosen_ids, expected.routing.chosen_ids);
      expect_same_ids(got.routing.expert_ids, expected.routing.expert_ids);
      expect_same_counts(got.routing.expert_counts, expected.routing.expert_counts);
      expect_same_counts(got.routing.dropped, expected.routing.dropped);
      // Scores are f32 whatever the tokens are.
      EXPECT_LE(gpu_error(got.routing.logits.value, expected.routing.logits.value), f32_bound);
      EXPECT_LE(gpu_error(got.routing.weights.value, expected.routing.weights.value), f32_bound);
      EXPECT_LE(gpu_error(got.routing.probabilities.value, expected.routing.probabilities.value), f32_bound);
      EXPECT_LE(gpu_error(got.balance, expected.balance), f32_bound);
      EXPECT_LE(gpu_error(got.z, expected.z), f32_bound);
      EXPECT_LE(gpu_error(got.dx, expected.dx), bound_of(dtype));
      EXPECT_LE(gpu_error(got.dgate, expected.dgate), bound_of(dtype));
    }
    if (c.config.capacity_factor > 0) {
      EXPECT_GT(expected.routing.dropped.to_vector<std::int64_t>()[0], 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RouterCuda, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

// Ties to the lower expert; NaN still chooses distinct ones.
TEST(RouterCudaTies, GoToTheLowerExpert) {
  MoeConfig config{.num_experts = 70, .top_k = 3};
  for (const float value : {0.0f, std::nanf("")}) {
    const Tensor logits = Tensor::zeros({2, 70}, DType::f32);
    for (std::int64_t i = 0; i < logits.numel(); ++i) logits.data<float>()[i] = value;
    cpu::RouterForward forward;
    forward.logits = on_gpu(logits);
    forward.scores = poisoned({2, 70}, DType::f32);
    forward.ids = poisoned({2, 3}, DType::i32);
    forward.weights = poisoned({2, 3}, DType::f32);
    cuda::router_forward(gpu(), forward, config);
    EXPECT_EQ(forward.ids.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 1, 2, 0, 1, 2}));
  }
}

// Slices that begin and end within sequences, with assignments before them.
TEST(DropOverCapacityCuda, OfASliceIsLikeTheCpu) {
  for (const std::int64_t experts : {3, 64, 700}) {
    for (const std::int64_t first : {0, 5, 130}) {
      const std::int64_t tokens = 777, k = 3, seq_len = 100, capacity = 3 * 100 / experts / 2 + 1;
      const Tensor ids = random_ids(tokens, k, experts), weights = random_for(DType::f32, {tokens, k}, 1, "w");
      const Tensor taken = Tensor::zeros({experts}, DType::i64);
      for (std::int64_t e = 0; e < experts; ++e) taken.data<std::int64_t>()[e] = e % 3;
      cpu::DropOverCapacity expected{
          ids.clone(), weights.clone(), taken, first, seq_len, capacity, Tensor::zeros({1}, DType::i64)};
      const cpu::DropOverCapacity got{on_gpu(ids), on_gpu(weights),          on_gpu(taken), first, seq_len,
                                      capacity,    poisoned({1}, DType::i64)};
      TestStream cpu;
      cpu::drop_over_capacity(cpu, expected);
      cuda::drop_over_capacity(gpu(), got);
      expect_same_ids(got.ids, expected.ids);
      expect_same_counts(got.dropped, expected.dropped);
      EXPECT_EQ(got.weights.to_vector<float>(), expected.weights.to_vector<float>());
      EXPECT_GT(*expected.dropped.data<std::int64_t>(), 0);

      const Tensor counts = Tensor::zeros({experts + 1}, DType::i64),
                   counts_gpu = poisoned({experts + 1}, DType::i64);
      cpu::count_open_sequence(cpu, ids, 7, counts);
      cuda::count_open_sequence(gpu(), on_gpu(ids), 7, counts_gpu);
      expect_same_counts(counts_gpu, counts);
    }
  }
}

TEST(DropOverCapacityCuda, SumsTheOpenSequencesOfEarlierRanks) {
  const Tensor gathered = Tensor::from<std::int64_t>({1, 2, 4, 10, 20, 5, 100, 200, 5, 1000, 2000, 5}, {4, 3});
  const Tensor taken = poisoned({2}, DType::i64);
  cuda::sum_open_sequence(gpu(), on_gpu(gathered), 3, 5, taken);
  EXPECT_EQ(taken.to_vector<std::int64_t>(), (std::vector<std::int64_t>{110, 220}));
}

// Losses of a slice in the middle of the sequences; gradients added to what is there.
TEST(RouterLossesCuda, OfASliceAreLikeTheCpu) {
  const std::int64_t tokens = 50, first = 17, seq_len = 30, sequences = 3, experts = 45, k = 3;
  const Tensor ids = random_ids(tokens, k, experts), p = random_for(DType::f32, {tokens, experts}, 1, "p"),
               scale = Tensor::from<float>({0.7f}, {1});
  const auto zeros = [](Shape shape, DType dtype) { return Tensor::zeros(shape, dtype); };
  TestStream cpu;
  const Tensor shares = zeros({sequences, experts}, DType::f64), losses = zeros({sequences}, DType::f64);
  const Tensor shares_gpu = poisoned(shares.shape(), DType::f64),
               losses_gpu = poisoned({sequences}, DType::f64);
  cpu::count_by_sequence(cpu, ids, first, seq_len, shares);
  cuda::count_by_sequence(gpu(), on_gpu(ids), first, seq_len, shares_gpu);
  EXPECT_EQ(shares_gpu.to_vector<double>(), shares.to_vector<double>());
  cpu::load_balance_forward(cpu, shares, k, p, first, seq_len, losses);
  cuda::load_balance_forward(gpu(), shares_gpu, k, on_gpu(p), first, seq_len, losses_gpu);
  EXPECT_LE(gpu_error(shares_gpu, shares), 1e-14);
  EXPECT_LE(gpu_error(losses_gpu, losses), 1e-14);
  for (const bool add : {false, true}) {
    const Tensor d = random_for(DType::f32, p.shape(), 2, "d"), d_gpu = on_gpu(d);
    cpu::load_balance_backward(cpu, shares, first, seq_len, scale, d, add);
    cuda::load_balance_backward(gpu(), shares_gpu, first, seq_len, on_gpu(scale), d_gpu, add);
    EXPECT_LE(gpu_error(d_gpu, d), f32_bound);
    const Tensor lse = zeros({tokens}, DType::f32), terms = zeros({tokens}, DType::f64);
    const Tensor lse_gpu = poisoned({tokens}, DType::f32), terms_gpu = poisoned({tokens}, DType::f64);
    cpu::z_loss_forward(cpu, p, lse, terms);
    cuda::z_loss_forward(gpu(), on_gpu(p), lse_gpu, terms_gpu);
    EXPECT_LE(gpu_error(lse_gpu, lse), f32_bound);
    EXPECT_LE(gpu_error(terms_gpu, terms), f32_bound);
    cpu::z_loss_backward(cpu, p, lse, scale, d, add);
    cuda::z_loss_backward(gpu(), on_gpu(p), lse_gpu, on_gpu(scale), d_gpu, add);
    EXPECT_LE(gpu_error(d_gpu, d), f32_bound);
  }
}

}  // namespace
}  // namespace hysparse::testing
