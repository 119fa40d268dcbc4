// Times of the core's GPU kernels on random data, one line each: median time, and the bandwidth or rate that
// comes to as a ratio to a copy and to a large product beside it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>

#include "core/cuda/context.h"
#include "core/cuda/cross_entropy.h"
#include "core/cuda/elementwise.h"
#include "core/cuda/embedding.h"
#include "core/cuda/matmul.h"
#include "core/cuda/rms_norm.h"
#include "core/cuda/swiglu.h"
#include "core/random.h"
#include "optim/adamw.h"
#include "optim/cuda/sum_of_squares.h"

namespace hysparse {
namespace {

using cpu::Transpose;

class Bench {
 public:
  Bench() : stream_(cuda::open_stream(0)) {
    std::vector<float> numbers;
    const CounterRandom random(1, "bench");
    for (std::uint64_t i = 0; i < tile; ++i) numbers.push_back(static_cast<float>(random.normal(i)));
    numbers_ = Tensor::from(numbers, {tile}).to_device(stream_.device);
    std::printf("%s, %d multiprocessors\n", cuda::properties().name.c_str(),
                cuda::properties().multiprocessors);
  }

  const Stream& stream() const { return stream_; }

  Tensor empty(Shape shape, DType dtype) const { return Tensor::empty(shape, dtype, stream_.device); }
  Tensor random(Shape shape, DType dtype) const {
    const Tensor t = empty({shape.numel()}, dtype), numbers = numbers_.to(dtype);
    for (std::int64_t begin = 0; begin < t.numel(); begin += tile) {
      const std::int64_t n = std::min(tile, t.numel() - begin);
      t.slice(begin, begin + n).copy_from(numbers.slice(0, n));
    }
    return t.view(shape);
  }
  Tensor ids(std::int64_t tokens, std::int64_t vocabulary) const {
    std::vector<std::int32_t> values;
    const CounterRandom random(2, "ids");
    for (std::int64_t t = 0; t < tokens; ++t) {
      // Some ids are frequent, as in text.
      const double u = random.uniform(static_cast<std::uint64_t>(t));
      values.push_back(static_cast<std::int32_t>(u * u * u * static_cast<double>(vocabulary)));
    }
    return Tensor::from(values, {tokens}).to_device(stream_.device);
  }

  /// Median over rounds of several calls, in microseconds.
  double time(const std::function<void()>& f) const {
    constexpr int rounds = 7, calls = 10;
    for (int i = 0; i < 3; ++i) f();
    std::vector<double> times;
    for (int round = 0; round < rounds; ++round) {
      cuda::synchronize(stream_);
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < calls; ++i) f();
      cuda::synchronize(stream_);
      const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - begin;
      times.push_back(elapsed.count() / calls);
    }
    std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
    return times[rounds / 2];
  }

  void bytes(const char* name, double moved, const std::function<void()>& f) {
    const double us = time(f), rate = moved / us * 1e-6;
    if (copy_ == 0) copy_ = rate;
    std::printf("%-44s %9.1f us  %6.2f TB/s    %4.2f of copy\n", name, us, rate, rate / copy_);
  }
  void flops(const char* name, double operations, const std::function<void()>& f) {
    const double us = time(f), rate = operations / us * 1e-6;
    if (product_ == 0) product_ = rate;
    std::printf("%-44s %9.1f us  %6.1f TFLOPS  %4.2f of the first product\n", name, us, rate, rate / product_);
  }

 private:
  static constexpr std::int64_t tile = 1 << 20;
  Stream stream_;
  Tensor numbers_;
  double copy_ = 0, product_ = 0;
};

void product(Bench& bench, const char* name, std::int64_t m, std::int64_t n, std::int64_t k, Transpose ta,
             Transpose tb, DType in, DType out, bool accumulate) {
  const Tensor a = bench.random(ta == Transpose::yes ? Shape{k, m} : Shape{m, k}, in),
               b = bench.random(tb == Transpose::yes ? Shape{n, k} : Shape{k, n}, in),
               c = bench.random({m, n}, out);
  bench.flops(name, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
              [&] { cuda::matmul(bench.stream(), ta, tb, a, b, c, accumulate); });
}

void products(Bench& bench) {
  constexpr auto N = Transpose::no, T = Transpose::yes;
  product(bench, "bf16 NT 8192^3", 8192, 8192, 8192, N, T, DType::bf16, DType::bf16, false);
  product(bench, "bf16 NT 4096^3", 4096, 4096, 4096, N, T, DType::bf16, DType::bf16, false);
  product(bench, "bf16 NT 16384 x 2048 x 2048", 16384, 2048, 2048, N, T, DType::bf16, DType::bf16, false);
  product(bench, "bf16 NN 16384 x 2048 x 2048", 16384, 2048, 2048, N, N, DType::bf16, DType::bf16, false);
  product(bench, "bf16 TN 2048 x 2048 x 16384, added to f32", 2048, 2048, 16384, T, N, DType::bf16, DType::f32,
          true);
  product(bench, "bf16 NT 4096 x 151936 x 2048 (head)", 4096, 151936, 2048, N, T, DType::bf16, DType::bf16,
          false);
  product(bench, "bf16 NN 4096 x 2048 x 151936 (head)", 4096, 2048, 151936, N, N, DType::bf16, DType::bf16,
          false);
  product(bench, "bf16 TN 151936 x 2048 x 4096, added to f32", 151936, 2048, 4096, T, N, DType::bf16,
          DType::f32, true);
  product(bench, "f32 NT 4096^3", 4096, 4096, 4096, N, T, DType::f32, DType::f32, false);
}

void rows(Bench& bench) {
  const std::int64_t rows = 16384, width = 2048;
  const double elements = static_cast<double>(rows * width);
  const Stream& stream = bench.stream();
  const auto like = [&] { return bench.random({rows, width}, DType::bf16); };
  cpu::RmsNormForward forward{
      .x = like(), .delta = like(), .weight = bench.random({width}, DType::bf16), .eps = 1e-6};
  forward.sum = like();
  forward.y = like();
  forward.reciprocal = bench.empty({rows}, DType::f32);
  bench.bytes("add + rms_norm forward, 16384 x 2048", 8 * elements,
              [&] { cuda::rms_norm_forward(stream, forward); });
  cpu::RmsNormBackward backward{forward.sum, forward.weight, forward.reciprocal, like(), like(), like(), {},
                                {}};
  bench.bytes("rms_norm backward without weight", 8 * elements,
              [&] { cuda::rms_norm_backward(stream, backward); });
  backward.dweight = bench.random({width}, DType::f32);
  bench.bytes("rms_norm backward", 8 * elements, [&] { cuda::rms_norm_backward(stream, backward); });

  const std::int64_t wide = 8192;
  const double many = static_cast<double>(rows * wide);
  const Tensor gate = bench.random({rows, wide}, DType::bf16), up = bench.random({rows, wide}, DType::bf16),
               out = bench.empty({rows, wide}, DType::bf16);
  bench.bytes("swiglu forward, 16384 x 8192", 6 * many, [&] { cuda::swiglu_forward(stream, gate, up, out); });
  const cpu::SwigluBackward d{gate, up, bench.random({rows, wide}, DType::bf16),
                              bench.empty({rows, wide}, DType::bf16), bench.empty({rows, wide}, DType::bf16)};
  bench.bytes("swiglu backward", 10 * many, [&] { cuda::swiglu_backward(stream, d); });
  bench.bytes("add", 6 * many, [&] { cuda::add(stream, gate, up, out); });

  const std::int64_t vocabulary = 151936, chunk = 4096;
  const Tensor ids = bench.ids(rows, vocabulary), table = bench.random({vocabulary, width}, DType::bf16),
               dtable = bench.random({vocabulary, width}, DType::f32), dout = like(), y = like();
  bench.bytes("embedding forward, 16384 of 151936 x 2048", 4 * elements,
              [&] { cuda::embedding_forward(stream, ids, table, 0, y); });
  bench.bytes("embedding backward (10 B / element)", 10 * elements,
              [&] { cuda::embedding_backward(stream, ids, dout, 0, dtable); });

  const Tensor logits = bench.random({chunk, vocabulary}, DType::bf16), targets = bench.ids(chunk, vocabulary),
               lse = bench.empty({chunk}, DType::f32), losses = bench.empty({chunk}, DType::f64),
               scale = bench.random({1}, DType::f32);
  const double all = static_cast<double>(chunk * vocabulary);
  bench.bytes("cross-entropy forward, 4096 x 151936", 2 * all,
              [&] { cuda::cross_entropy_forward(stream, logits, targets, lse, losses); });
  bench.bytes("cross-entropy backward", 4 * all,
              [&] { cuda::cross_entropy_backward(stream, logits, targets, 0, lse, scale); });
}

void optimizer(Bench& bench) {
  const std::int64_t n = 200'000'000;
  const Tensor p = bench.random({n}, DType::f32), g = bench.random({n}, DType::f32),
               m = bench.random({n}, DType::f32), v = Tensor::zeros({n}, DType::f32, bench.stream().device),
               r = bench.empty({n}, DType::bf16);
  std::vector<UpdateRange> ranges;
  std::vector<cpu::Range> counted;
  for (std::int64_t begin = 0; begin < n; begin += 1 << 20) {
    ranges.push_back({begin, std::min(n, begin + (1 << 20)), true});
    counted.push_back({ranges.back().begin, ranges.back().end});
  }
  const auto all = static_cast<double>(n);
  bench.bytes("AdamW, 200M in 191 ranges, bf16 copy", 30 * all,
              [&] { adamw_update(bench.stream(), {}, 10, 1e-3, 1.0, ranges, p, g, m, v, r); });
  const Tensor sum = bench.empty({1}, DType::f64);
  bench.bytes("sum of squares", 4 * all, [&] { cuda::sum_of_squares(bench.stream(), g, counted, sum); });
}

}  // namespace
}  // namespace hysparse

int main() {
  hysparse::Bench bench;
  {
    const hysparse::Tensor a = bench.random({1 << 28}, hysparse::DType::f32),
                           b = bench.random({1 << 28}, hysparse::DType::f32);
    bench.bytes("copy of 1 GiB", 2.0 * static_cast<double>(a.bytes()), [&] { b.copy_from(a); });
  }
  hysparse::rows(bench);
  hysparse::optimizer(bench);
  hysparse::products(bench);
}
