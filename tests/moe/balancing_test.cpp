#include "moe/balancing.h"

#include <gtest/gtest.h>

#include "core/random.h"

namespace hysparse {
namespace {

TEST(CorrectionBias, MovesByTheSignOfTheLoadOnly) {
  const Tensor bias = Tensor::from<double>({0.5, 0.5, 0.5, 0.5}, {4});
  update_correction_bias(bias, Tensor::from<std::int64_t>({100, 5, 7, 0}, {4}), 0.25);  // mean 28
  EXPECT_EQ(bias.to_vector<double>(), (std::vector<double>{0.25, 0.75, 0.75, 0.75}));
  update_correction_bias(bias, Tensor::from<std::int64_t>({3, 3, 3, 3}, {4}), 0.25);
  EXPECT_EQ(bias.to_vector<double>(), (std::vector<double>{0.25, 0.75, 0.75, 0.75}));
  update_correction_bias(bias, Tensor::from<std::int64_t>({2, 3, 4, 3}, {4}), 0.25);
  EXPECT_EQ(bias.to_vector<double>(), (std::vector<double>{0.5, 0.75, 0.5, 0.75}));
}

TEST(CorrectionBias, WorksInFloat32AndWithoutTokens) {
  const Tensor bias = Tensor::from<float>({0, 0}, {2});
  update_correction_bias(bias, Tensor::from<std::int64_t>({1, 0}, {2}), 0.001);
  EXPECT_EQ(bias.to_vector<float>(), (std::vector<float>{-0.001f, 0.001f}));
  update_correction_bias(bias, Tensor::from<std::int64_t>({0, 0}, {2}), 0.001);
  EXPECT_EQ(bias.to_vector<float>(), (std::vector<float>{-0.001f, 0.001f}));
}

// A skewed router with the bias in a loop: the load evens out to the width of the bias' steps.
TEST(CorrectionBias, EvensOutASkewedRouter) {
  constexpr std::int64_t experts = 8, tokens = 2000;
  const CounterRandom random(4, "scores");
  const Tensor bias = Tensor::zeros({experts}, DType::f64);
  LoadMetrics first, last;
  for (int step = 0; step < 300; ++step) {
    const Tensor counts = Tensor::zeros({experts}, DType::i64);
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::int64_t best = 0;
      double best_score = -1e300;
      for (std::int64_t e = 0; e < experts; ++e) {
        const double score = random.uniform(static_cast<std::uint64_t>(t * experts + e)) +
                             0.05 * static_cast<double>(e) + bias.data<double>()[e];
        if (score > best_score) {
          best = e;
          best_score = score;
        }
      }
      ++counts.data<std::int64_t>()[best];
    }
    last = load_metrics(counts, 0);
    if (step == 0) first = last;
    update_correction_bias(bias, counts, 0.005);
  }
  EXPECT_GT(first.max_over_mean, 1.5);
  EXPECT_LT(last.max_over_mean, 1.1);
}

TEST(BalancedChoices, AreTheSameInSlices) {
  const Tensor whole = balanced_choices(0, 20, 3, 7);
  EXPECT_EQ(whole.slice(0, 3).to_vector<std::int32_t>(),
            (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 0, 1}));
  for (std::int64_t t = 0; t < 20; ++t) {
    EXPECT_EQ(balanced_choices(t, 20, 3, 7).to_vector<std::int32_t>(),
              whole.slice(t, 20).to_vector<std::int32_t>());
  }
  EXPECT_EQ(balanced_choices(20, 20, 3, 7).dim(0), 0);
}

TEST(LoadMetrics, MaxOverMeanAndDroppedShare) {
  const LoadMetrics m = load_metrics(Tensor::from<std::int64_t>({6, 2, 0, 0}, {4}), 2);
  EXPECT_DOUBLE_EQ(m.max_over_mean, 3.0);
  EXPECT_DOUBLE_EQ(m.dropped_fraction, 0.25);
  const LoadMetrics none = load_metrics(Tensor::from<std::int64_t>({0, 0}, {2}), 0);
  EXPECT_EQ(none.max_over_mean, 1.0);
  EXPECT_EQ(none.dropped_fraction, 0.0);
}

}  // namespace
}  // namespace hysparse
