// cublasLt products against those of the CPU.
#include "core/cuda/matmul.h"
#include "tests/core/gpu_test.h"

namespace hysparse::testing {
namespace {

using cpu::Transpose;

constexpr Transpose both[] = {Transpose::no, Transpose::yes};

Shape operand(Transpose t, std::int64_t rows, std::int64_t columns) {
  return t == Transpose::yes ? Shape{columns, rows} : Shape{rows, columns};
}

void expect_product(Transpose ta, Transpose tb, std::int64_t m, std::int64_t n, std::int64_t k, DType in,
                    DType out, bool accumulate) {
  SCOPED_TRACE(fmt::format("{} x {} x {}, {} to {}, {}{}{}", m, n, k, dtype_name(in), dtype_name(out),
                           ta == Transpose::yes ? "T" : "N", tb == Transpose::yes ? "T" : "N",
                           accumulate ? ", added" : ""));
  const Tensor a = random_for(in, operand(ta, m, k), 1, "a"), b = random_for(in, operand(tb, k, n), 1, "b");
  const Tensor before = random_for(out, {m, n}, 1, "c");
  const Tensor expected = accumulate ? before.clone() : Tensor::zeros({m, n}, DType::f32);
  TestStream stream;
  cpu::matmul(stream, ta, tb, a, b, expected, accumulate);
  const Tensor c = accumulate ? on_gpu(before, out) : poisoned({m, n}, out);
  const Tensor da = on_gpu(a, in), db = on_gpu(b, in);
  cuda::matmul(gpu(), ta, tb, da, db, c, accumulate);
  EXPECT_LE(gpu_error(c, expected), bound_of(out));
  if (accumulate) return;
  const Tensor again = poisoned({m, n}, out);
  cuda::matmul(gpu(), ta, tb, da, db, again, accumulate);
  EXPECT_EQ(again.to(DType::f64).to_vector<double>(), c.to(DType::f64).to_vector<double>());
}

TEST(CudaMatmul, IsThatOfTheCpu) {
  struct Size {
    std::int64_t m, n, k;
  };
  const Size sizes[] = {{1, 1, 1},     {3, 5, 7},    {128, 64, 256}, {33, 17, 129},
                        {1, 300, 100}, {257, 1, 64}, {64, 64, 4097}};
  for (const auto& [m, n, k] : sizes) {
    for (const Transpose ta : both) {
      for (const Transpose tb : both) {
        for (const bool accumulate : {false, true}) {
          expect_product(ta, tb, m, n, k, DType::f32, DType::f32, accumulate);
          expect_product(ta, tb, m, n, k, DType::bf16, DType::bf16, accumulate);
          expect_product(ta, tb, m, n, k, DType::bf16, DType::f32, accumulate);
        }
      }
    }
  }
}

TEST(CudaMatmul, TakesRowsOfATensor) {
  // Views that begin at any element: what bounds the width of accesses.
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor a = random_for(dtype, {9, 15}, 1, "a"), b = random_for(dtype, {11, 15}, 1, "b");
    const Tensor expected = Tensor::zeros({8, 10}, DType::f32);
    TestStream stream;
    cpu::matmul(stream, Transpose::no, Transpose::yes, a.slice(1, 9), b.slice(1, 11), expected, false);
    const Tensor c = poisoned({9, 10}, dtype);
    cuda::matmul(gpu(), Transpose::no, Transpose::yes, on_gpu(a, dtype).slice(1, 9),
                 on_gpu(b, dtype).slice(1, 11), c.slice(1, 9), false);
    EXPECT_LE(gpu_error(c.slice(1, 9), expected), bound_of(dtype));
  }
}

TEST(CudaMatmul, OfNothing) {
  const Tensor empty = Tensor::zeros({0, 4}, DType::f32, gpu().device);
  const Tensor weight = on_gpu(random_tensor({3, 4}, 1, "w", 1.0, DType::f32));
  cuda::matmul(gpu(), Transpose::no, Transpose::yes, empty, weight,
               Tensor::zeros({0, 3}, DType::f32, gpu().device), false);
  const Tensor none = Tensor::zeros({0, 3}, DType::f32, gpu().device), c = poisoned({3, 4}, DType::f32);
  cuda::matmul(gpu(), Transpose::yes, Transpose::no, none, empty, c, false);
  EXPECT_EQ(c.to_vector<float>(), std::vector<float>(12));
  const Tensor kept = weight.clone();
  cuda::matmul(gpu(), Transpose::yes, Transpose::no, none, empty, kept, true);
  EXPECT_EQ(kept.to_vector<float>(), weight.to_vector<float>());
}

TEST(CudaMatmul, RefusesDouble) {
  const Tensor x = Tensor::zeros({2, 2}, DType::f64, gpu().device);
  EXPECT_THROW(cuda::matmul(gpu(), Transpose::no, Transpose::no, x, x, x, false), CheckFailure);
}

}  // namespace
}  // namespace hysparse::testing
