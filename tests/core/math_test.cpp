// The vectorised elementary functions, lane reductions and matrix products under the ops.
#include "core/cpu/math.h"

#include <cmath>
#include <limits>

#include "core/cpu/cross_entropy.h"
#include "core/cpu/lanes.h"
#include "core/cpu/matmul.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

/// Distance in units of the last place of the exact value.
double ulps(float value, double exact) {
  const float rounded = static_cast<float>(exact);
  const double ulp =
      static_cast<double>(std::nextafter(std::fabs(rounded), std::numeric_limits<float>::infinity())) -
      std::fabs(static_cast<double>(rounded));
  return std::fabs(static_cast<double>(value) - exact) / ulp;
}

TEST(Exp, Float32IsWithinTwoUlps) {
  constexpr double allowed = 2.0;
  double worst = 0;
  float worst_at = 0;
  const int steps = 2'000'000;
  for (int i = 0; i <= steps; ++i) {
    const float x = -87.0f + 175.0f * static_cast<float>(i) / static_cast<float>(steps);
    const double distance = ulps(cpu::exp(x), std::exp(static_cast<double>(x)));
    if (distance > worst) {
      worst = distance;
      worst_at = x;
    }
  }
  EXPECT_LT(worst, allowed) << "at " << worst_at;
}

TEST(Exp, Float32LimitsAreExact) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(cpu::exp(0.0f), 1.0f);
  EXPECT_EQ(cpu::exp(-infinity), 0.0f);
  EXPECT_EQ(cpu::exp(-1000.0f), 0.0f);
  EXPECT_EQ(cpu::exp(89.0f), infinity);
  EXPECT_EQ(cpu::exp(infinity), infinity);
  EXPECT_TRUE(std::isnan(cpu::exp(std::numeric_limits<float>::quiet_NaN())));
  // Between: denormal results, to one unit of the smallest.
  for (float x = -103.5f; x < -87.0f; x += 0.25f) {
    EXPECT_NEAR(cpu::exp(x), std::exp(static_cast<double>(x)), 1.5e-45) << x;
  }
}

TEST(Exp, EveryLaneAndTailIsTheSame) {
  std::vector<float> x(67, 1.2345f), y(67);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = cpu::exp(x[i]);
  for (const float v : y) EXPECT_EQ(v, y[0]);
}

TEST(Lanes, SumsAndMaximaOfEveryLength) {
  for (std::int64_t n = 1; n < 70; ++n) {
    const Tensor x = random_tensor({n}, 3, "x");
    double sum = 0, most = -1e300, exponentials = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      sum += x.data<double>()[i];
      most = std::max(most, x.data<double>()[i]);
      exponentials += std::exp(x.data<double>()[i] - 0.5);
    }
    const double* p = x.data<double>();
    EXPECT_NEAR(cpu::lane_sum<double>(n, [=](std::int64_t i) { return p[i]; }), sum, 1e-13) << n;
    EXPECT_EQ(cpu::lane_max(n, p), most) << n;
    EXPECT_NEAR(cpu::sum_of_exponentials(n, p, 0.5) / exponentials, 1.0, 1e-13) << n;
  }
  EXPECT_EQ(cpu::lane_sum<double>(0, [](std::int64_t) { return 1.0; }), 0.0);
}

TEST(Lanes, WideRowsOfExponentialsKeepTheirDigits) {
  const std::vector<float> x(150'000, 0.1f);
  const double exact = 150'000 * static_cast<double>(cpu::exp(0.1f));
  EXPECT_NEAR(cpu::sum_of_exponentials(150'000, x.data(), 0.0f) / exact, 1.0, 64 * 0x1p-24);
}

Tensor naive_product(const Tensor& a, bool at, const Tensor& b, bool bt, const Tensor& c) {
  const Tensor out = c.clone();
  const std::int64_t m = c.dim(0), n = c.dim(1), k = a.dim(at ? 0 : 1);
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t l = 0; l < k; ++l) {
        out.data<double>()[i * n + j] +=
            a.data<double>()[at ? l * m + i : i * k + l] * b.data<double>()[bt ? j * k + l : l * n + j];
      }
    }
  }
  return out;
}

TEST(Matmul, EveryTransposeAndEdgeSize) {
  const std::int64_t sizes[][3] = {{1, 1, 1}, {0, 3, 4},     {3, 0, 4},   {3, 4, 0},
                                   {5, 7, 3}, {130, 33, 70}, {17, 200, 9}};
  for (const int threads : {1, 3}) {
    TestStream stream(threads);
    for (const auto& [m, n, k] : sizes) {
      for (const bool at : {false, true}) {
        for (const bool bt : {false, true}) {
          for (const bool accumulate : {false, true}) {
            const Tensor a = random_tensor(at ? Shape{k, m} : Shape{m, k}, 1, "a");
            const Tensor b = random_tensor(bt ? Shape{n, k} : Shape{k, n}, 1, "b");
            const Tensor c = random_tensor({m, n}, 1, "c");
            const Tensor expected =
                naive_product(a, at, b, bt, accumulate ? c : Tensor::zeros({m, n}, DType::f64));
            cpu::matmul(stream, cpu::Transpose{at}, cpu::Transpose{bt}, a, b, c, accumulate);
            EXPECT_LE(relative_error(c, expected), 1e-14)
                << m << " " << n << " " << k << " " << at << bt << accumulate;
          }
        }
      }
    }
  }
}

TEST(Matmul, UninitialisedOutputIsNotRead) {
  TestStream stream;
  const Tensor c = Tensor::empty({2, 2}, DType::f64);
  for (int i = 0; i < 4; ++i) c.data<double>()[i] = std::numeric_limits<double>::quiet_NaN();
  const Tensor a = random_tensor({2, 3}, 1, "a"), b = random_tensor({3, 2}, 1, "b");
  cpu::matmul(stream, cpu::Transpose::no, cpu::Transpose::no, a, b, c, false);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(std::isfinite(c.data<double>()[i]));
}

}  // namespace
}  // namespace hysparse::testing
