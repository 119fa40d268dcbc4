#include "optim/adamw.h"

#include <cmath>

#include "optim/sharded_optimizer.h"
#include "tests/core/gradient_check.h"

namespace hysparse {
namespace {

using testing::random_tensor;
using testing::TestStream;

/// Rounding of some ten operations per step over five steps.
constexpr double golden_tolerance = 1e-14;

void expect_near(const Tensor& actual, const std::vector<double>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(actual.data<double>()[i], expected[i], golden_tolerance * std::max(std::abs(expected[i]), 1e-3))
        << i;
  }
}

// PyTorch 1.13, torch.optim.AdamW in float64, betas (0.9, 0.95), eps 1e-8, two groups a (weight_decay 0.1) and
// b (0); step t from 1 to 5 with lr = 0.01 t, a.grad = [0.1 t, -0.02 t^2, 0, 1e-9 t], b.grad = [3 / t, -1e-4,
// (-1)^t / 2], and clip_grad_norm_([a, b], 1).
TEST(AdamW, EqualsPyTorch) {
  TestStream stream;
  const AdamWConfig config{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  const Tensor p = Tensor::from<double>({0.5, -1.25, 2.0, 0.0, 0.3, -0.7, 1e-3}, {7});
  const Tensor m = Tensor::zeros({7}, DType::f64), v = Tensor::zeros({7}, DType::f64);
  const std::vector<UpdateRange> ranges{{0, 4, true}, {4, 7, false}};
  const double norms[] = {3.0430905359518965, 1.5957443435588297, 1.171494775916649, 1.0367738470852743,
                          1.053565380031064};
  for (int t = 1; t <= 5; ++t) {
    const std::vector<double> grad{0.1 * t, -0.02 * t * t, 0.0, 1e-9 * t, 3.0 / t, -1e-4, t % 2 ? -0.5 : 0.5};
    double squares = 0;
    for (const double g : grad) squares += g * g;
    EXPECT_NEAR(std::sqrt(squares), norms[t - 1], 1e-14);
    adamw_update(stream, config, t, 0.01 * t, clip_scale(std::sqrt(squares), 1.0), ranges, p,
                 Tensor::from(grad, {7}), m, v);
  }
  expect_near(p, {0.36014520521573906, -1.1093512713977582, 1.9701695505477597, -0.023014195578418592,
                  0.15227249824079658, -0.55459643380626378, 0.014495477549547754});
  expect_near(m, {0.11421645888193743, -0.091767858380238848, 0, 1.1421645888193743e-09, 0.32440445098666393,
                  -3.1811003742155841e-05, -0.026563376161484485});
  expect_near(v, {0.022008256870834682, 0.016961128051820647, 0, 2.2008256870834683e-18, 0.15141229721183688,
                  1.433481394133118e-09, 0.035837034853327947});
}

TEST(AdamW, Float32FollowsFloat64) {
  TestStream stream;
  const std::int64_t n = 50001;
  std::vector<Tensor> p, m, v;
  for (const DType dtype : {DType::f64, DType::f32}) {
    p.push_back(random_tensor({n}, 1, "p").to(DType::f32).to(dtype));
    p.back() = p.back().clone();
    m.push_back(Tensor::zeros({n}, dtype));
    v.push_back(Tensor::zeros({n}, dtype));
    const std::vector<UpdateRange> ranges{{0, 20000, true}, {20000, n, false}};
    for (int t = 1; t <= 10; ++t) {
      const Tensor g = random_tensor({n}, 2, fmt::format("g{}", t)).to(dtype);
      adamw_update(stream, {}, t, 1e-3, 0.5, ranges, p.back(), g, m.back(), v.back());
    }
  }
  // Single precision: a few roundings of 6e-8 a step.
  EXPECT_LT(testing::relative_error(p[1], p[0]), 1e-6);
  EXPECT_LT(testing::relative_error(m[1], m[0]), 1e-6);
  EXPECT_LT(testing::relative_error(v[1], v[0]), 1e-6);
}

TEST(AdamW, IsTheSameForAnySplitAndNumberOfThreads) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const std::int64_t n = 70003;
    std::vector<Tensor> results;
    for (const int threads : {1, 2, 3}) {
      TestStream stream(threads);
      const Tensor p = random_tensor({n}, 1, "p", 1.0, dtype), g = random_tensor({n}, 1, "g", 1.0, dtype);
      const Tensor m = random_tensor({n}, 1, "m", 0.1, dtype), v = Tensor::zeros({n}, dtype);
      // One range, or cut at places that fit nothing.
      const std::vector<UpdateRange> ranges =
          threads == 1 ? std::vector<UpdateRange>{{0, n, true}}
                       : std::vector<UpdateRange>{{0, 7, true}, {7, 33333, true}, {33333, n, true}};
      adamw_update(stream, {}, 3, 1e-2, 1.0, ranges, p, g, m, v);
      results.push_back(p);
    }
    for (const Tensor& r : results)
      EXPECT_EQ(0, std::memcmp(r.raw(), results[0].raw(), static_cast<std::size_t>(r.bytes())));
  }
}

TEST(AdamW, LeavesWhatIsInNoRangeAlone) {
  TestStream stream;
  const Tensor p = Tensor::from<float>({1, 1, 1, 1}, {4}), g = Tensor::from<float>({1, 1, 1, 1}, {4});
  const Tensor m = Tensor::zeros({4}, DType::f32), v = Tensor::zeros({4}, DType::f32);
  const std::vector<UpdateRange> ranges{{1, 2, false}};
  adamw_update(stream, {.eps = 0}, 1, 0.25, 1.0, ranges, p, g, m, v);
  EXPECT_EQ(p.data<float>()[0], 1.0f);
  EXPECT_NEAR(p.data<float>()[1], 0.75f, 1e-6f);  // the first step moves by lr
  EXPECT_EQ(p.data<float>()[2], 1.0f);
  EXPECT_EQ(m.data<float>()[3], 0.0f);
  adamw_update(stream, {}, 1, 0.25, 1.0, {}, p, g, m, v);
}

TEST(ClipScale, AsPyTorch) {
  EXPECT_EQ(clip_scale(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_scale(4.0, 1.0), 1.0 / (4.0 + 1e-6));
  EXPECT_EQ(clip_scale(100.0, 0.0), 1.0);
}

}  // namespace
}  // namespace hysparse
