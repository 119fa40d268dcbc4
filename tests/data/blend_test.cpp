#include "data/blend.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/random.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using Draws = std::vector<std::pair<std::int64_t, std::int64_t>>;

std::vector<double> random_weights(std::uint64_t seed, int count) {
  const CounterRandom random(seed, "weights");
  std::vector<double> weights;
  for (int k = 0; k < count; ++k) {
    const double u = random.uniform(static_cast<std::uint64_t>(k));
    switch (seed % 4) {
      case 0:  // much alike
        weights.push_back(0.5 + u);
        break;
      case 1:  // over four decades
        weights.push_back(std::pow(10.0, -4.0 * u));
        break;
      case 2:  // one large, many small
        weights.push_back(k == 0 ? 30.0 : 0.01 + u);
        break;
      default:  // whole numbers, as of tokens
        weights.push_back(std::round(1e9 * (0.001 + u)));
    }
  }
  return weights;
}

/// Draws `count` samples from 0; after each, every source must be within one sample of its share. Returns the
/// furthest that one was away.
double check_proportions(const std::vector<double>& weights, std::int64_t count) {
  Blend blend(weights);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int64_t> given(weights.size(), 0);
  double furthest = 0;
  // Checked for all sources at every step, or, for many, for the drawn one at every step (before, when it is
  // behind the most, and after) and for all now and then.
  const std::int64_t every = weights.size() <= 16 ? 1 : 997;
  const auto away = [&](std::size_t k, std::int64_t n) {
    return std::abs(static_cast<double>(given[k]) - weights[k] / sum * static_cast<double>(n));
  };
  for (std::int64_t n = 0; n < count; ++n) {
    const Blend::Draw draw = blend.at(n);
    const auto k = static_cast<std::size_t>(draw.source);
    EXPECT_EQ(draw.sample, given[k]);
    furthest = std::max(furthest, away(k, n));
    ++given[k];
    furthest = std::max(furthest, away(k, n + 1));
    if ((n + 1) % every != 0) continue;
    for (std::size_t j = 0; j < weights.size(); ++j) furthest = std::max(furthest, away(j, n + 1));
  }
  for (std::size_t j = 0; j < weights.size(); ++j) furthest = std::max(furthest, away(j, count));
  return furthest;
}

/// The difference between a share in doubles and the exact one, times 10^6.
constexpr double rounding = 1e-8;

TEST(Blend, ProportionsHoldWithinOneSampleAtAllTimes) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    for (const int sources : {1, 2, 3, 7, 16}) {
      EXPECT_LT(check_proportions(random_weights(seed, sources), 20000), 1 + rounding)
          << sources << " sources, seed " << seed;
    }
  }
  for (const std::vector<double>& weights : {std::vector<double>{0.7, 0.3},
                                             {1, 1, 1},
                                             {0.1, 0.2, 0.3, 0.4},
                                             {1, 1, 1, 1, 1, 1, 1, 993},
                                             {1.1e-7, 1}}) {
    EXPECT_LT(check_proportions(weights, 20000), 1 + rounding);
  }
}

TEST(Blend, ProportionsHoldForAMillionSamplesOfManySources) {
  for (const auto& [seed, sources] : {std::pair<std::uint64_t, int>{0, 1000}, {1, 300}, {2, 1000}, {3, 64}}) {
    const double furthest = check_proportions(random_weights(seed, sources), 1000000);
    fmt::print("{} sources: at most {:.4f} samples away\n", sources, furthest);
    EXPECT_LT(furthest, 1 + rounding) << sources << " sources, seed " << seed;
  }
}

/// Always the source with the largest deficit lets some fall behind by more than a sample: why there are
/// windows.
TEST(Blend, TheLargestDeficitAloneWouldNotDo) {
  const std::vector<double> weights{509, 7, 20, 20, 7, 509, 20, 7, 57, 509, 7, 20, 57, 509, 6, 533, 131};
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> given(weights.size(), 0.0);
  double furthest = 0;
  for (int n = 1; n <= 500; ++n) {
    std::size_t behind = 0;
    const auto deficit = [&](std::size_t k) { return weights[k] / sum * n - given[k]; };
    for (std::size_t k = 1; k < weights.size(); ++k) behind = deficit(k) > deficit(behind) ? k : behind;
    ++given[behind];
    for (std::size_t k = 0; k < weights.size(); ++k) furthest = std::max(furthest, deficit(k));
  }
  EXPECT_GT(furthest, 1.4);
  EXPECT_LT(check_proportions(weights, 20000), 1 + rounding);
}

TEST(Blend, TheOrderIsAPureFunctionOfTheIndex) {
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    const CounterRandom random(seed, "jumps");
    const int sources = 1 + static_cast<int>(random.below(0, 12));
    std::vector<double> weights = random_weights(seed, sources);
    // A smallest share of 1e-4 or more, so that the longest window is passed many times.
    const double largest = *std::max_element(weights.begin(), weights.end());
    for (double& weight : weights) weight = std::max(weight, 2e-4 * largest);
    constexpr std::int64_t count = 60000;
    Blend in_order(weights), jumping(weights);
    Draws draws;
    for (std::int64_t i = 0; i < count; ++i) {
      const Blend::Draw draw = in_order.at(i);
      draws.emplace_back(draw.source, draw.sample);
    }
    for (std::uint64_t jump = 1; jump <= 200; ++jump) {
      const auto i = static_cast<std::int64_t>(random.below(jump, count));
      const Blend::Draw draw = jumping.at(i);
      ASSERT_EQ(std::pair(draw.source, draw.sample), draws[static_cast<std::size_t>(i)])
          << "index " << i << " of " << sources << " sources, seed " << seed;
      ASSERT_EQ(jumping.at(i).sample, draw.sample);  // again
      if (jump % 3 == 0) continue;
      const std::vector<std::int64_t> samples = jumping.samples(i);  // one back
      ASSERT_EQ(std::accumulate(samples.begin(), samples.end(), std::int64_t{0}), i);
      ASSERT_EQ(samples[static_cast<std::size_t>(draw.source)], draw.sample);
    }
  }
}

TEST(Blend, AnIndexFarOutIsCheap) {
  constexpr std::int64_t far = 1'000'000'000'000;
  const std::vector<double> weights = random_weights(3, 50);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const auto start = std::chrono::steady_clock::now();
  Blend blend(weights);
  const Blend::Draw draw = blend.at(far);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 1.0);
  // From there on one by one, and looked up from further back: the same.
  std::vector<std::int64_t> samples = Blend(weights).samples(far);
  for (std::size_t k = 0; k < weights.size(); ++k) {
    const double share = weights[k] / sum * static_cast<double>(far);
    EXPECT_LT(std::abs(static_cast<double>(samples[k]) - share), 1 + 1e-2) << k;  // of shares in doubles
  }
  EXPECT_EQ(samples[static_cast<std::size_t>(draw.source)], draw.sample);
  Blend from_before(weights);
  for (std::int64_t i = far - 300000; i <= far; ++i) from_before.at(i);
  EXPECT_EQ(from_before.at(far).source, draw.source);
  EXPECT_EQ(from_before.samples(far + 1)[static_cast<std::size_t>(draw.source)], draw.sample + 1);

  Blend smallest({1.1e-7, 1.0});  // the costliest that there is
  const auto again = std::chrono::steady_clock::now();
  smallest.at(far);
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - again).count(), 20.0);
}

TEST(Blend, WeightsAreExactWholeNumbers) {
  using Whole = std::vector<std::int64_t>;
  EXPECT_EQ(whole_weights({0.7, 0.3}), (Whole{7, 3}));
  EXPECT_EQ(whole_weights({0.25, 0.5, 0.25}), (Whole{1, 2, 1}));
  EXPECT_EQ(whole_weights({3.0}), (Whole{1}));
  EXPECT_EQ(whole_weights({12e9, 8e9, 1.5e9}), (Whole{24, 16, 3}));
  EXPECT_EQ(whole_weights({1e-9, 3e-9}), (Whole{1, 3}));
  EXPECT_EQ(whole_weights({0.123456789, 0.5}), (Whole{123456789, 500000000}));
  const Whole thirds = whole_weights({1.0 / 3, 2.0 / 3});
  EXPECT_NEAR(static_cast<double>(thirds[1]) / static_cast<double>(thirds[0]), 2.0, 1e-14);
}

TEST(Blend, RefusesWeightsThatAreNone) {
  for (const double bad : {0.0, -0.5, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_ERROR(Blend({0.5, bad}), "weight " + fmt::format("{}", bad), "must be a positive number");
  }
  EXPECT_ERROR(Blend({1e308, 1e308}), "too large", "sum");
  EXPECT_ERROR(Blend({1.0, 1e-8}), "weight 1e-08", "at least 1e-07 of the sum");
}

}  // namespace
}  // namespace hysparse
