// Kernels that work row by row against those of the CPU: norms, embedding, cross-entropy.
#include <cmath>

#include "core/cuda/cross_entropy.h"
#include "core/cuda/embedding.h"
#include "core/cuda/rms_norm.h"
#include "tests/core/gpu_test.h"
#include "tests/core/random_targets.h"

namespace hysparse::testing {
namespace {

constexpr DType dtypes[] = {DType::f32, DType::bf16};

struct Size {
  std::int64_t rows, width;
};

TEST(CudaRmsNorm, ForwardIsThatOfTheCpu) {
  for (const DType dtype : dtypes) {
    for (const auto& [rows, width] :
         {Size{0, 8}, {1, 1}, {3, 7}, {70, 128}, {5, 96}, {33, 1000}, {9, 2048}, {3, 20000}}) {
      for (const bool residual : {false, true}) {
        SCOPED_TRACE(fmt::format("{} {} x {} {}", dtype_name(dtype), rows, width, residual));
        const Tensor x = random_for(dtype, {rows, width}, 1, "x"),
                     delta = random_for(dtype, {rows, width}, 1, "delta"),
                     weight = random_for(dtype, {width}, 1, "weight");
        cpu::RmsNormForward on_cpu{
            .x = x, .weight = weight, .y = Tensor::empty({rows, width}, DType::f32), .eps = 1e-6};
        on_cpu.reciprocal = Tensor::empty({rows}, DType::f32);
        cpu::RmsNormForward there{.x = on_gpu(x, dtype),
                                  .weight = on_gpu(weight, dtype),
                                  .y = poisoned({rows, width}, dtype),
                                  .eps = 1e-6};
        there.reciprocal = poisoned({rows}, DType::f32);
        if (residual) {
          on_cpu.delta = delta;
          on_cpu.sum = Tensor::empty({rows, width}, DType::f32);
          there.delta = on_gpu(delta, dtype);
          there.sum = poisoned({rows, width}, dtype);
        }
        TestStream stream;
        cpu::rms_norm_forward(stream, on_cpu);
        cuda::rms_norm_forward(gpu(), there);
        if (residual) {
          EXPECT_LE(gpu_error(there.sum, on_cpu.sum), bound_of(dtype));
        }
        // The norm is of the sum as it is stored.
        EXPECT_LE(gpu_error(there.reciprocal, on_cpu.reciprocal), residual ? bound_of(dtype) : f32_bound);
        EXPECT_LE(gpu_error(there.y, on_cpu.y), bound_of(dtype));
      }
    }
  }
}

/// The arguments of a backward in which everything is there, on the CPU.
cpu::RmsNormBackward backward_arguments(DType dtype, std::int64_t rows, std::int64_t width) {
  cpu::RmsNormBackward b;
  b.x = random_for(dtype, {rows, width}, 1, "x");
  b.weight = random_for(dtype, {width}, 1, "weight");
  b.reciprocal = Tensor::empty({rows}, DType::f32);
  TestStream stream;
  cpu::RmsNormForward forward{
      .x = b.x, .weight = b.weight, .y = Tensor::empty({rows, width}, DType::f32), .eps = 1e-6};
  forward.reciprocal = b.reciprocal;
  cpu::rms_norm_forward(stream, forward);
  b.dy = random_for(dtype, {rows, width}, 1, "dy");
  b.dsum = random_for(dtype, {rows, width}, 1, "dsum");
  b.dx = random_for(dtype, {rows, width}, 1, "dx");
  b.ddelta = random_for(dtype, {rows, width}, 1, "ddelta");
  b.dweight = random_tensor({width}, 1, "dweight", 1.0, DType::f32);
  return b;
}

cpu::RmsNormBackward moved(const cpu::RmsNormBackward& b, DType dtype) {
  cpu::RmsNormBackward there = b;
  for (Tensor* t : {&there.x, &there.weight, &there.dy, &there.dsum, &there.dx, &there.ddelta}) {
    if (t->defined()) *t = on_gpu(*t, dtype);
  }
  there.reciprocal = on_gpu(b.reciprocal);
  if (b.dweight.defined()) there.dweight = on_gpu(b.dweight).clone();
  return there;
}

TEST(CudaRmsNorm, BackwardIsThatOfTheCpu) {
  for (const DType dtype : dtypes) {
    for (const auto& [rows, width] :
         {Size{0, 8}, {2, 5}, {3, 7}, {1500, 128}, {33, 1000}, {700, 2048}, {3, 20000}}) {
      for (int variant = 0; variant < 4; ++variant) {
        SCOPED_TRACE(fmt::format("{} {} x {} variant {}", dtype_name(dtype), rows, width, variant));
        cpu::RmsNormBackward b = backward_arguments(dtype, rows, width);
        if (variant == 0) b.add_x = b.add_delta = true;
        if (variant == 1) b.dsum = b.ddelta = Tensor();
        if (variant == 2) b.dx = b.dweight = Tensor();
        const cpu::RmsNormBackward there = moved(b, dtype);
        cpu::RmsNormBackward in_place = there;
        if (variant == 3) in_place.dx = in_place.dsum;
        TestStream stream;
        cpu::rms_norm_backward(stream, b);
        cuda::rms_norm_backward(gpu(), in_place);
        if (b.dx.defined()) {
          EXPECT_LE(gpu_error(in_place.dx, b.dx), bound_of(dtype));
        }
        if (b.ddelta.defined()) {
          EXPECT_LE(gpu_error(there.ddelta, b.ddelta), bound_of(dtype));
        }
        if (b.dweight.defined()) {
          EXPECT_LE(gpu_error(there.dweight, b.dweight), f32_bound);
        }
      }
    }
  }
}

TEST(CudaRmsNorm, WeightGradientIsTheSameEachTime) {
  const cpu::RmsNormBackward b = backward_arguments(DType::bf16, 5000, 256);
  const cpu::RmsNormBackward first = moved(b, DType::bf16), second = moved(b, DType::bf16);
  cuda::rms_norm_backward(gpu(), first);
  cuda::rms_norm_backward(gpu(), second);
  EXPECT_EQ(first.dweight.to_vector<float>(), second.dweight.to_vector<float>());
}

/// Ids that occur once, often or never; from the part [first, first + held) of the vocabulary and around it.
Tensor some_ids(std::int64_t tokens, std::int64_t vocabulary) {
  const Tensor ids = random_targets(tokens, vocabulary);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::int32_t& id = ids.data<std::int32_t>()[t];
    if (id < 0 || t % 3 == 0) id = static_cast<std::int32_t>(vocabulary / 2);
  }
  return ids;
}

TEST(CudaEmbedding, IsThatOfTheCpu) {
  for (const DType dtype : dtypes) {
    for (const auto& [tokens, width] : {Size{0, 8}, {1, 1}, {50, 7}, {3000, 264}, {1001, 2048}}) {
      SCOPED_TRACE(fmt::format("{} {} x {}", dtype_name(dtype), tokens, width));
      const std::int64_t vocabulary = 97, first = 20, held = 60;
      const Tensor ids = some_ids(tokens, vocabulary), table = random_for(dtype, {held, width}, 1, "table");
      const Tensor expected = Tensor::empty({tokens, width}, DType::f32),
                   out = poisoned({tokens, width}, dtype);
      TestStream stream;
      cpu::embedding_forward(stream, ids, table, first, expected);
      cuda::embedding_forward(gpu(), on_gpu(ids), on_gpu(table, dtype), first, out);
      EXPECT_EQ(out.to(DType::f64).to_vector<double>(), expected.to(DType::f64).to_vector<double>());

      // In order of token, in f32, on both sides: bitwise.
      const Tensor dout = random_for(dtype, {tokens, width}, 1, "dout");
      const Tensor dtable = random_tensor({held, width}, 1, "dtable", 1.0, DType::f32);
      const Tensor there = on_gpu(dtable).clone();
      cpu::embedding_backward(stream, ids, dout, first, dtable);
      cuda::embedding_backward(gpu(), on_gpu(ids), on_gpu(dout, dtype), first, there);
      EXPECT_EQ(there.to_vector<float>(), dtable.to_vector<float>());
    }
  }
}

TEST(CudaCrossEntropy, IsThatOfTheCpu) {
  for (const DType dtype : dtypes) {
    for (const auto& [rows, width] : {Size{0, 8}, {1, 1}, {3, 7}, {40, 1000}, {64, 5003}, {5, 151936}}) {
      SCOPED_TRACE(fmt::format("{} {} x {}", dtype_name(dtype), rows, width));
      const Tensor logits = random_for(dtype, {rows, width}, 1, "logits", 3.0);
      const Tensor targets = random_targets(rows, width);
      const Tensor lse = Tensor::empty({rows}, DType::f32), losses = Tensor::empty({rows}, DType::f64);
      TestStream stream;
      cpu::cross_entropy_forward(stream, logits, targets, lse, losses);
      const Tensor there = on_gpu(logits, dtype), dtargets = on_gpu(targets);
      const Tensor got_lse = poisoned({rows}, DType::f32), got_losses = poisoned({rows}, DType::f64);
      cuda::cross_entropy_forward(gpu(), there, dtargets, got_lse, got_losses);
      EXPECT_LE(gpu_error(got_lse, lse), f32_bound);
      EXPECT_LE(gpu_error(got_losses, losses), f32_bound);

      const Tensor scale = Tensor::from<float>({0.37f}, {1}), dlogits = logits.clone();
      cpu::cross_entropy_backward(stream, dlogits, targets, 0, lse, scale);
      cuda::cross_entropy_backward(gpu(), there, dtargets, 0, got_lse, on_gpu(scale));
      EXPECT_LE(gpu_error(there, dlogits), bound_of(dtype));
    }
  }
}

TEST(CudaCrossEntropy, OfPartsIsThatOfTheCpu) {
  for (const DType dtype : dtypes) {
    const std::int64_t rows = 21, width = 333, first = 100;
    const Tensor logits = random_for(dtype, {rows, width}, 1, "logits", 3.0);
    const Tensor targets = random_targets(rows, 700);
    const Tensor part = Tensor::empty({rows, 2}, DType::f64), got = poisoned({rows, 2}, DType::f64);
    TestStream stream;
    cpu::cross_entropy_part(stream, logits, targets, first, part);
    cuda::cross_entropy_part(gpu(), on_gpu(logits, dtype), on_gpu(targets), first, got);
    EXPECT_LE(gpu_error(got, part), f32_bound);

    const Tensor parts = random_tensor({3, rows, 2}, 1, "parts");
    const Tensor lse = Tensor::empty({rows}, DType::f32), losses = Tensor::empty({rows}, DType::f64);
    cpu::cross_entropy_merge(stream, parts, targets, lse, losses);
    const Tensor got_lse = poisoned({rows}, DType::f32), got_losses = poisoned({rows}, DType::f64);
    cuda::cross_entropy_merge(gpu(), on_gpu(parts), on_gpu(targets), got_lse, got_losses);
    EXPECT_LE(gpu_error(got_lse, lse), f32_bound);
    EXPECT_LE(gpu_error(got_losses, losses), 1e-14);

    const Tensor scale = Tensor::from<float>({0.37f}, {1}), there = on_gpu(logits, dtype);
    const Tensor row_lse = random_tensor({rows}, 1, "lse", 1.0, DType::f32);
    cpu::cross_entropy_backward(stream, logits, targets, first, row_lse, scale);
    cuda::cross_entropy_backward(gpu(), there, on_gpu(targets), first, on_gpu(row_lse), on_gpu(scale));
    EXPECT_LE(gpu_error(there, logits), bound_of(dtype));
  }
}

TEST(CudaCrossEntropy, ShowsNonFiniteLogits) {
  for (const float bad : {std::nanf(""), -std::nanf(""), HUGE_VALF}) {
    const Tensor logits = Tensor::from<float>({1, bad, 2, 0.5f}, {1, 4}), lse = poisoned({1}, DType::f32),
                 losses = Tensor::zeros({1}, DType::f64, gpu().device);
    cuda::cross_entropy_forward(gpu(), on_gpu(logits), on_gpu(Tensor::from<std::int32_t>({0}, {1})), lse,
                                losses);
    EXPECT_FALSE(std::isfinite(losses.to_vector<double>()[0])) << bad;
  }
}

}  // namespace
}  // namespace hysparse::testing
