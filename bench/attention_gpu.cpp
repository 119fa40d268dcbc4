/// Times of the attention kernels on the GPU in bf16, medians in milliseconds, and useful TFLOPS: 4 E per head,
/// query and key that it sees forward, 10 E backward.
///   cmake --build DIR --target bench_attention_gpu
///   DIR/bench_attention_gpu [sequences seq_len heads groups head_dim window block top_blocks]
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <vector>

#include "attention/cuda/attention.h"
#include "attention/cuda/gate.h"
#include "attention/cuda/rope.h"
#include "core/cuda/context.h"
#include "core/random.h"

namespace hysparse {
namespace {

struct Sizes {
  std::int64_t sequences = 2, seq_len = 8192, heads = 64, groups = 4, head_dim = 128, window = 128, block = 64,
               top = 16;
};

/// Normal random bf16: a run of them over and over.
Tensor normal(Shape shape, const char* name) {
  constexpr std::int64_t run = 1 << 20;
  const CounterRandom random(1, name);
  std::vector<BFloat16> values(run);
  for (std::int64_t i = 0; i < run; ++i)
    values[static_cast<std::size_t>(i)] =
        BFloat16(static_cast<float>(random.normal(static_cast<std::uint64_t>(i))));
  const Tensor t = Tensor::empty(shape, DType::bf16);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<BFloat16>()[i] = values[static_cast<std::size_t>(i * 7 % run)];
  return t.to_device(cuda::current_stream().device);
}

/// Median over batches of launches between two waits.
double milliseconds(const Stream& stream, const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  work();
  work();
  std::vector<double> times;
  const Clock::time_point start = Clock::now();
  while (times.size() < 5 || (times.size() < 50 && Clock::now() - start < std::chrono::milliseconds(600))) {
    constexpr int launches = 4;
    cuda::synchronize(stream);
    const Clock::time_point t0 = Clock::now();
    for (int i = 0; i < launches; ++i) work();
    cuda::synchronize(stream);
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - t0).count() / launches);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

/// Keys that all queries of a sequence see, with at most `most` each.
double pairs(const Sizes& s, std::int64_t most) {
  double sum = 0;
  for (std::int64_t t = 0; t < s.seq_len; ++t) sum += static_cast<double>(std::min(t + 1, most));
  return sum * static_cast<double>(s.sequences * s.heads);
}

void report(const char* name, double ms, double pairs_seen, double flops_per_pair) {
  fmt::print("{:34} {:9.3f} ms", name, ms);
  if (pairs_seen > 0) fmt::print("  {:7.1f} TFLOPS", pairs_seen * flops_per_pair / ms * 1e-9);
  fmt::print("\n");
}

/// Lists as trained models make them: a window of blocks that neighbours share, a few that all choose.
BlockLists lists(const Sizes& s, bool random) {
  const std::int64_t blocks = (s.seq_len + s.block - 1) / s.block;
  BlockLists of = empty_block_lists({s.block, s.top}, s.sequences * s.seq_len, s.groups, s.seq_len, Device{});
  const std::int64_t top = of.blocks.dim(2);
  const CounterRandom numbers(2, "lists");
  std::vector<std::int32_t> chosen;
  for (std::int64_t row = 0; row < s.sequences * s.seq_len; ++row) {
    for (std::int64_t g = 0; g < s.groups; ++g) {
      const std::int64_t own = row % s.seq_len / s.block, visible = std::min(own + 1, blocks);
      chosen.clear();
      // Neighbours draw from the same numbers, one in eight of them anew.
      for (std::uint64_t i = 0; static_cast<std::int64_t>(chosen.size()) < std::min(top, visible); ++i) {
        const bool fresh =
            random || numbers.bits(static_cast<std::uint64_t>(row * 977 + g) * 1024 + i) % 8 == 0;
        const auto seed =
            static_cast<std::uint64_t>(fresh ? row + 100000000 : row / 64) * 8 + static_cast<std::uint64_t>(g);
        const auto b =
            static_cast<std::int32_t>(numbers.bits(seed * 4096 + i) % static_cast<std::uint64_t>(visible));
        if (std::find(chosen.begin(), chosen.end(), b) == chosen.end()) chosen.push_back(b);
      }
      std::sort(chosen.begin(), chosen.end());
      of.counts.data<std::int32_t>()[row * s.groups + g] = static_cast<std::int32_t>(chosen.size());
      chosen.resize(static_cast<std::size_t>(top), -1);
      std::copy(chosen.begin(), chosen.end(), of.blocks.data<std::int32_t>() + (row * s.groups + g) * top);
    }
  }
  const Device device = cuda::current_stream().device;
  return {s.block, of.blocks.to_device(device), of.counts.to_device(device)};
}

void run(const Sizes& s) {
  const Stream stream = cuda::open_stream(0);
  fmt::print("{}: {} x {} tokens, {}/{} heads of {}, window {}, {} blocks of {}\n", cuda::properties().name,
             s.sequences, s.seq_len, s.heads, s.groups, s.head_dim, s.window, s.top, s.block);
  const std::int64_t rows = s.sequences * s.seq_len;
  const Shape queries{rows, s.heads * s.head_dim}, keys{rows, s.groups * s.head_dim};
  const Tensor q = normal(queries, "q"), k = normal(keys, "k"), v = normal(keys, "v"),
               dout = normal(queries, "dout"), sinks = normal({s.heads}, "sinks");
  const auto empty = [&](const Shape& shape, DType dtype) {
    return Tensor::empty(shape, dtype, stream.device);
  };
  const Tensor out = empty(queries, DType::bf16), lse = empty({rows, s.heads}, DType::f32),
               dsinks = Tensor::zeros({s.heads}, DType::f32, stream.device);
  const cpu::AttentionGradients gradients{.q = {empty(queries, DType::bf16), false},
                                          .k = {empty(keys, DType::bf16), false},
                                          .v = {empty(keys, DType::bf16), false},
                                          .sinks = dsinks};
  const cpu::AttentionSizes sizes{s.sequences, s.seq_len, 0, s.seq_len, s.heads, s.groups, s.head_dim};
  const auto time = [&](const std::string& name, const cpu::KeyPattern& pattern, double seen,
                        const Tensor& sink) {
    cpu::AttentionGradients wanted = gradients;
    if (!sink.defined()) wanted.sinks = Tensor();
    const double work = 4.0 * static_cast<double>(s.head_dim);
    report(
        (name + " forward").c_str(),
        milliseconds(
            stream, [&] { cuda::attention_forward(stream, sizes, pattern, q, k, v, sink, out, lse, nullptr); }),
        seen, work);
    report(
        (name + " backward").c_str(),
        milliseconds(
            stream,
            [&] { cuda::attention_backward(stream, sizes, pattern, q, k, v, sink, out, lse, dout, wanted); }),
        seen, 2.5 * work);
  };
  const cpu::KeyPattern causal{.kind = cpu::KeyPattern::Kind::causal};
  time("causal", causal, pairs(s, s.seq_len), {});
  const BlockLists chosen = empty_block_lists({s.block, s.top}, rows, s.groups, s.seq_len, stream.device);
  report("causal forward, choosing",
         milliseconds(stream,
                      [&] { cuda::attention_forward(stream, sizes, causal, q, k, v, {}, out, lse, &chosen); }),
         pairs(s, s.seq_len), 4.0 * static_cast<double>(s.head_dim));
  time("window", {.kind = cpu::KeyPattern::Kind::window, .window = s.window}, pairs(s, s.window), sinks);
  for (const bool random : {false, true}) {
    time(random ? "blocks, random lists" : "blocks, shared lists",
         {.kind = cpu::KeyPattern::Kind::blocks, .blocks = lists(s, random)}, pairs(s, s.block * s.top), sinks);
  }
  const Tensor table = cuda::rope_table(stream, 1e6, s.head_dim, 0, s.seq_len, DType::f32);
  const Tensor weight = normal({s.head_dim}, "weight"),
               dweight = Tensor::zeros({s.head_dim}, DType::f32, stream.device);
  const cpu::NormRope op{s.head_dim, table, weight, 1e-6};
  report(
      "rope table",
      milliseconds(stream, [&] { (void)cuda::rope_table(stream, 1e6, s.head_dim, 0, s.seq_len, DType::f32); }),
      0, 0);
  report("norm and rope of q, forward",
         milliseconds(stream, [&] { cuda::norm_rope_forward(stream, op, q, out); }), 0, 0);
  report(
      "norm and rope of q, backward",
      milliseconds(stream,
                   [&] { cuda::norm_rope_backward(stream, op, q, dout, gradients.q.buffer, false, dweight); }),
      0, 0);
  const Tensor logits = normal({rows, s.heads}, "logits"), dlogits = empty({rows, s.heads}, DType::bf16);
  const std::vector<cpu::GateInput> branches{{q, logits}, {dout, logits}};
  report("two headwise gates, forward",
         milliseconds(stream, [&] { cuda::gated_sum_forward(stream, branches, s.heads, out); }), 0, 0);
  report("one headwise gate, backward",
         milliseconds(stream,
                      [&] {
                        cuda::gated_sum_backward(stream, branches[0], s.heads, dout, gradients.q.buffer, false,
                                                 dlogits, false);
                      }),
         0, 0);
}

}  // namespace
}  // namespace hysparse

int main(int argc, char** argv) {
  hysparse::Sizes sizes;
  std::int64_t* fields[] = {&sizes.sequences, &sizes.seq_len, &sizes.heads, &sizes.groups,
                            &sizes.head_dim,  &sizes.window,  &sizes.block, &sizes.top};
  for (int i = 1; i < argc && i <= 8; ++i) *fields[i - 1] = std::atoll(argv[i]);
  hysparse::run(sizes);
}
