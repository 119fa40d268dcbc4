/// Times of the attention ops on the CPU, forward and backward, in float32: medians in milliseconds.
///   cmake --build DIR --target bench_attention
///   DIR/bench_attention [threads] [sequences seq_len heads groups head_dim window block top_blocks documents]
/// documents: of equal length in each sequence, masked; 0: no masks.
/// bench/attention_torch.py times the same in PyTorch eager.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <vector>

#include "attention/attention.h"
#include "attention/gate.h"
#include "attention/rope.h"
#include "core/random.h"
#include "core/thread_pool.h"

namespace hysparse {
namespace {

struct Sizes {
  std::int64_t sequences = 8, seq_len = 256, heads = 8, groups = 2, head_dim = 32, window = 32, block = 16,
               top = 4, documents = 0;
};

Tensor normal(Shape shape, const char* name) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  const CounterRandom random(1, name);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  return t;
}

double median(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

/// Runs forward and backward on fresh tapes and prints the median time of each.
void time_op(const char* name, const Stream& stream, const std::function<Var(Tape&)>& forward,
             const Tensor& dout) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> forward_times, backward_times;
  const Clock::time_point start = Clock::now();
  while (forward_times.size() < 15 || Clock::now() - start < std::chrono::seconds(1)) {
    Tape tape(stream);
    const Tensor gradient = dout.clone();
    const Clock::time_point t0 = Clock::now();
    const Var out = forward(tape);
    const Clock::time_point t1 = Clock::now();
    tape.backward(out, gradient);
    const Clock::time_point t2 = Clock::now();
    forward_times.push_back(std::chrono::duration<double, std::milli>(t1 - t0).count());
    backward_times.push_back(std::chrono::duration<double, std::milli>(t2 - t1).count());
  }
  fmt::print("{:24} forward {:8.3f} ms  backward {:8.3f} ms\n", name, median(forward_times),
             median(backward_times));
}

Tensor document_starts(const Sizes& s) {
  if (s.documents == 0) return {};
  const Tensor starts = Tensor::empty({s.sequences * s.seq_len}, DType::i32);
  const std::int64_t length = (s.seq_len + s.documents - 1) / s.documents;
  for (std::int64_t i = 0; i < starts.numel(); ++i)
    starts.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % s.seq_len / length * length);
  return starts;
}

void run(const Sizes& s, int threads) {
  ThreadPool pool(threads);
  const Stream stream{Device{}, &pool, nullptr};
  const AttentionShape shape{s.sequences, s.seq_len, s.heads, s.groups, s.head_dim, document_starts(s)};
  const SelectionConfig selection{s.block, s.top};
  const std::int64_t tokens = shape.tokens();
  const Tensor q = normal({tokens, s.heads * s.head_dim}, "q"),
               k = normal({tokens, s.groups * s.head_dim}, "k");
  const Tensor v = normal({tokens, s.groups * s.head_dim}, "v"), dout = normal(q.shape(), "dout");
  const Tensor logits = normal({tokens, s.heads}, "logits"), other = normal(q.shape(), "other");
  const Parameter sinks{"sinks", normal({s.heads}, "sinks"), Tensor::zeros({s.heads}, DType::f32)};
  const Parameter norm{"norm", normal({s.head_dim}, "norm"), Tensor::zeros({s.head_dim}, DType::f32)};
  const RopeConfig rope{.theta = 10000.0, .rotary_dim = s.head_dim};
  fmt::print("S {} T {} H {} G {} E {} W {} B {} K {}, {} documents, {} threads\n", s.sequences, s.seq_len,
             s.heads, s.groups, s.head_dim, s.window, s.block, s.top, s.documents, threads);
  Tape evaluation(stream, {.recording = false});
  const BlockLists lists = *full_attention(evaluation, evaluation.constant(q), evaluation.constant(k),
                                           evaluation.constant(v), shape, selection)
                                .blocks;
  time_op(
      "full", stream,
      [&](Tape& t) { return full_attention(t, t.input(q), t.input(k), t.input(v), shape, std::nullopt).out; },
      dout);
  time_op(
      "full with selection", stream,
      [&](Tape& t) { return full_attention(t, t.input(q), t.input(k), t.input(v), shape, selection).out; },
      dout);
  time_op(
      "block sparse", stream,
      [&](Tape& t) {
        return block_sparse_attention(t, t.input(q), t.input(k), t.input(v), lists, &sinks, shape);
      },
      dout);
  time_op(
      "window", stream,
      [&](Tape& t) { return window_attention(t, t.input(q), t.input(k), t.input(v), s.window, &sinks, shape); },
      dout);
  time_op(
      "q norm and rope", stream,
      [&](Tape& t) {
        return qk_norm_rope(t, t.input(q), &norm, 1e-6, s.head_dim, s.seq_len, rope, 0, shape.documents);
      },
      dout);
  time_op(
      "two headwise gates", stream,
      [&](Tape& t) {
        const std::vector<GatedBranch> branches{{t.input(q), t.input(logits)},
                                                {t.input(other), t.input(logits)}};
        return gated_sum(t, branches, s.heads);
      },
      dout);
}

}  // namespace
}  // namespace hysparse

int main(int argc, char** argv) {
  hysparse::Sizes sizes;
  std::int64_t* fields[] = {&sizes.sequences, &sizes.seq_len, &sizes.heads, &sizes.groups,   &sizes.head_dim,
                            &sizes.window,    &sizes.block,   &sizes.top,   &sizes.documents};
  for (int i = 2; i < std::min(argc, 11); ++i) *fields[i - 2] = std::atoll(argv[i]);
  hysparse::run(sizes, argc > 1 ? std::atoi(argv[1]) : hysparse::default_thread_count(1));
}
