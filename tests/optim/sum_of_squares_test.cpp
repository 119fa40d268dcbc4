#include "optim/cpu/sum_of_squares.h"

#include "tests/core/gradient_check.h"

namespace hysparse {
namespace {

using testing::random_tensor;
using testing::TestStream;

double sum_of(const Stream& stream, const Tensor& x, const std::vector<cpu::Range>& ranges) {
  const Tensor sum = Tensor::empty({1}, DType::f64);
  cpu::sum_of_squares(stream, x, ranges, sum);
  return *sum.data<double>();
}

TEST(SumOfSquares, CountsTheRangesOnlyAndDoesNotDependOnThreads) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const Tensor x = random_tensor({100001}, 3, "x", 1.0, dtype);
    const std::vector<cpu::Range> ranges{{0, 5}, {17, 40000}, {40000, 40000}, {40001, 100001}};
    const Tensor wide = x.to(DType::f64);
    double expected = 0;
    for (const cpu::Range& r : ranges) {
      for (std::int64_t i = r.begin; i < r.end; ++i)
        expected += wide.data<double>()[i] * wide.data<double>()[i];
    }
    std::vector<double> sums;
    for (const int threads : {1, 2, 5}) {
      TestStream stream(threads);
      sums.push_back(sum_of(stream, x, ranges));
    }
    EXPECT_NEAR(sums[0], expected, 1e-12 * expected);
    EXPECT_EQ(sums[0], sums[1]);
    EXPECT_EQ(sums[0], sums[2]);
  }
}

TEST(SumOfSquares, OfNothing) {
  TestStream stream;
  EXPECT_EQ(sum_of(stream, Tensor::zeros({0}, DType::f32), {}), 0.0);
}

}  // namespace
}  // namespace hysparse
