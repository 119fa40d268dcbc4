// The optimizer's kernels on the GPU against those of the CPU.
#include <cmath>

#include "optim/adamw.h"
#include "optim/cuda/sum_of_squares.h"
#include "tests/core/gpu_test.h"

namespace hysparse {
namespace {

using namespace testing;

TEST(CudaAdamW, IsThatOfTheCpu) {
  const std::int64_t n = 70003;
  const std::vector<UpdateRange> ranges{{0, 7, true}, {7, 7, false}, {16, 33333, true}, {33344, n - 5, false}};
  for (const bool rounds : {false, true}) {
    const Tensor p = random_tensor({n}, 1, "p", 1.0, DType::f32),
                 m = random_tensor({n}, 1, "m", 0.1, DType::f32);
    const Tensor v = Tensor::zeros({n}, DType::f32), r = p.to(DType::bf16);
    const Tensor dp = on_gpu(p).clone(), dm = on_gpu(m).clone(), dv = on_gpu(v).clone(), dr = on_gpu(r).clone();
    TestStream stream;
    for (int step = 1; step <= 3; ++step) {
      const Tensor g = random_tensor({n}, 1, fmt::format("g{}", step), 1.0, DType::f32);
      adamw_update(stream, {}, step, 1e-2, 0.5, ranges, p, g, m, v, rounds ? r : Tensor());
      adamw_update(gpu(), {}, step, 1e-2, 0.5, ranges, dp, on_gpu(g), dm, dv, rounds ? dr : Tensor());
    }
    EXPECT_LE(gpu_error(dp, p), 1e-6);
    EXPECT_LE(gpu_error(dm, m), 1e-6);
    EXPECT_LE(gpu_error(dv, v), 1e-6);
    // What is in no range is left alone, to the bit; in a range the copy is the value, rounded.
    const std::vector<float> mine = dp.to_vector<float>(), theirs = p.to_vector<float>();
    const Tensor copy = dr.to_device(Device{}), rounded = dp.to_device(Device{}).to(DType::bf16);
    for (std::int64_t i = 0; i < n; ++i) {
      const bool inside = i < 7 || (i >= 16 && i < 33333) || (i >= 33344 && i < n - 5);
      if (!inside) {
        ASSERT_EQ(mine[static_cast<std::size_t>(i)], theirs[static_cast<std::size_t>(i)]) << i;
      }
      const Tensor& source = inside && rounds ? rounded : r;
      if (!inside || rounds) {
        ASSERT_EQ(copy.data<BFloat16>()[i].bits, source.data<BFloat16>()[i].bits) << i;
      }
    }
  }
}

TEST(CudaAdamW, TakesSlicesAndNoRanges) {
  const Tensor p = random_tensor({101}, 1, "p", 1.0, DType::f32),
               g = random_tensor({101}, 1, "g", 1.0, DType::f32);
  const Tensor m = Tensor::zeros({101}, DType::f32), v = Tensor::zeros({101}, DType::f32);
  const auto there = [](const Tensor& t) { return on_gpu(t).clone().slice(1, 101); };
  const Tensor dp = there(p), dg = there(g), dm = there(m), dv = there(v);
  const std::vector<UpdateRange> ranges{{0, 100, true}};
  TestStream stream;
  adamw_update(stream, {}, 1, 1e-2, 1.0, ranges, p.slice(1, 101), g.slice(1, 101), m.slice(1, 101),
               v.slice(1, 101));
  adamw_update(gpu(), {}, 1, 1e-2, 1.0, ranges, dp, dg, dm, dv);
  adamw_update(gpu(), {}, 2, 1e-2, 1.0, {}, dp, dg, dm, dv);
  EXPECT_LE(gpu_error(dp, p.slice(1, 101)), 1e-6);
}

TEST(CudaSumOfSquares, IsThatOfTheCpu) {
  const Tensor x = random_tensor({1000001}, 3, "x", 1.0, DType::f32), there = on_gpu(x);
  const std::vector<std::vector<cpu::Range>> cases{
      {}, {{5, 5}}, {{0, 1}}, {{0, 5}, {17, 400000}, {400000, 400000}, {400001, 1000001}}, {{3, 1000000}}};
  for (const auto& ranges : cases) {
    const Tensor sum = Tensor::empty({1}, DType::f64), got = poisoned({1}, DType::f64),
                 again = poisoned({1}, DType::f64);
    TestStream stream;
    cpu::sum_of_squares(stream, x, ranges, sum);
    cuda::sum_of_squares(gpu(), there, ranges, got);
    cuda::sum_of_squares(gpu(), there, ranges, again);
    const double expected = *sum.data<double>();
    EXPECT_NEAR(got.to_vector<double>()[0], expected, 1e-13 * expected);
    EXPECT_EQ(got.to_vector<double>(), again.to_vector<double>());
  }
}

}  // namespace
}  // namespace hysparse
