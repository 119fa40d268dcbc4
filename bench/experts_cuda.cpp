// Speed of the experts' kernels on the GPU: bench_experts_cuda [experts rows_per_expert hidden_size width
// top_k]. Random numbers, sizes read by nobody on the host; median of 20 timed batches of 5 calls.
#include <algorithm>
#include <chrono>
#include <cstdlib>

#include <fmt/format.h>

#include "core/cuda/context.h"
#include "core/random.h"
#include "moe/cuda/dispatch.h"
#include "moe/cuda/experts.h"
#include "moe/cuda/router.h"
#include "moe/dispatch.h"

namespace hysparse {
namespace {

struct Sizes {
  std::int64_t experts = 64, rows = 1024, hidden_size = 2048, width = 1024, top_k = 8;
};

Tensor random_bf16(Shape shape, double scale, Device device) {
  // A long period of random numbers is enough to keep the adders busy.
  const CounterRandom random(1, "bench");
  std::vector<float> period(1 << 20);
  for (std::size_t i = 0; i < period.size(); ++i)
    period[i] = static_cast<float>(scale * (2 * random.uniform(i) - 1));
  const Tensor t = Tensor::empty(shape, DType::f32);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<float>()[i] = period[static_cast<std::size_t>(i) % (period.size() - 7)];
  return t.to(DType::bf16).to_device(device);
}

template <class F>
double seconds(const Stream& stream, F&& call) {
  constexpr int batches = 20, calls = 5;
  for (int i = 0; i < 2; ++i) call();
  std::vector<double> times;
  for (int b = 0; b < batches; ++b) {
    cuda::synchronize(stream);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    cuda::synchronize(stream);
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls);
  }
  std::nth_element(times.begin(), times.begin() + batches / 2, times.end());
  return times[batches / 2];
}

void report(const char* what, double time, double flops, double bytes) {
  fmt::print("{:<28}{:>9.3f} ms", what, time * 1e3);
  if (flops > 0) fmt::print("{:>8.0f} TFLOPS", flops / time * 1e-12);
  if (bytes > 0) fmt::print("{:>8.0f} GB/s", bytes / time * 1e-9);
  fmt::print("\n");
}

void run(const Sizes& s, bool skewed) {
  const Stream stream = cuda::open_stream(0);
  const Device device = stream.device;
  const std::int64_t m = s.experts * s.rows, tokens = m / s.top_k, d = s.hidden_size, f = s.width;
  // Balanced, or falling from twice the mean to nothing.
  Tensor ids = Tensor::empty({tokens, s.top_k}, DType::i32);
  const CounterRandom random(2, "ids");
  for (std::int64_t a = 0; a < ids.numel(); ++a) {
    std::int64_t e = a % s.experts;
    if (skewed) {
      const auto one = static_cast<std::int64_t>(
                     random.below(2 * static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(s.experts))),
                 two = static_cast<std::int64_t>(random.below(2 * static_cast<std::uint64_t>(a) + 1,
                                                              static_cast<std::uint64_t>(s.experts)));
      e = std::min(one, two);
    }
    ids.data<std::int32_t>()[a] = static_cast<std::int32_t>(e);
  }
  ids = ids.to_device(device);
  const ExpertOrder order = order_by_expert(stream, ids, s.experts, m);
  const cpu::ExpertRows rows{order.offsets, order.sources, order.assignments};
  const cpu::ExpertWeightTensors weights{random_bf16({s.experts, f, d}, 0.05, device),
                                         random_bf16({s.experts, f, d}, 0.05, device),
                                         random_bf16({s.experts, d, f}, 0.05, device)};
  const auto empty = [&](Shape shape, DType dtype = DType::bf16) {
    return Tensor::empty(shape, dtype, device);
  };
  const auto gradient = [&](Shape shape) { return Tensor::zeros(shape, DType::f32, device); };
  const Tensor x = random_bf16({tokens, d}, 1, device), dy = random_bf16({tokens, d}, 1, device),
               slots = random_bf16({tokens, s.top_k}, 1, device).to(DType::f32), y = empty({tokens, d});
  const cpu::ExpertsForward forward{rows, weights, x, slots, empty({m, f}), empty({m, f}), empty({m, d})};
  cpu::ExpertsBackward backward{rows,
                                weights,
                                dy,
                                slots,
                                forward.gate,
                                forward.up,
                                empty({m, d}),
                                empty({m}, DType::f32),
                                empty({m, f}),
                                empty({m, f}),
                                empty({m, f}),
                                {}};
  const cpu::ExpertsWeightGradient weight_gradient{
      rows,
      x,
      dy,
      {},
      backward.dgate,
      backward.dup,
      backward.hidden,
      {gradient({s.experts, f, d}), gradient({s.experts, f, d}), gradient({s.experts, d, f})}};
  const double flops = 6.0 * static_cast<double>(m) * static_cast<double>(d) * static_cast<double>(f);
  const double row_bytes = 2.0 * static_cast<double>(m + tokens) * static_cast<double>(d);

  fmt::print("{} experts, {} rows each{}, {} -> {} -> {}, top_k {}\n", s.experts, s.rows,
             skewed ? " on average, uneven" : "", d, f, d, s.top_k);
  report("order", seconds(stream, [&] { order_by_expert(stream, ids, s.experts, m); }), 0, 0);
  report("forward", seconds(stream, [&] { cuda::experts_forward(stream, forward); }), flops, 0);
  report("combine",
         seconds(stream, [&] { cuda::combine_rows(stream, forward.out, order.positions, y, false); }), 0,
         row_bytes);
  report("backward of inputs", seconds(stream, [&] { cuda::experts_backward(stream, backward); }), flops, 0);
  report("backward of weights",
         seconds(stream, [&] { cuda::experts_weight_gradient(stream, weight_gradient); }), flops, 0);
  cpu::ExpertsWeightGradient down = weight_gradient;
  down.dweights.gate = down.dweights.up = Tensor();
  report("  of down alone", seconds(stream, [&] { cuda::experts_weight_gradient(stream, down); }), flops / 3,
         0);

  const MoeConfig config{.num_experts = s.experts, .top_k = s.top_k};
  cpu::RouterForward router;
  router.logits = random_bf16({tokens, s.experts}, 1, device).to(DType::f32);
  router.scores = empty({tokens, s.experts}, DType::f32);
  router.probabilities = empty({tokens, s.experts}, DType::f32);
  router.ids = empty({tokens, s.top_k}, DType::i32);
  router.weights = empty({tokens, s.top_k}, DType::f32);
  report("router", seconds(stream, [&] { cuda::router_forward(stream, router, config); }), 0,
         12.0 * static_cast<double>(tokens * s.experts));
}

}  // namespace
}  // namespace hysparse

int main(int argc, char** argv) {
  hysparse::Sizes sizes;
  if (argc == 6) {
    const auto number = [&](int i) { return static_cast<std::int64_t>(std::atoll(argv[i])); };
    sizes = {number(1), number(2), number(3), number(4), number(5)};
  }
  for (const bool skewed : {false, true}) hysparse::run(sizes, skewed);
}
