#include "model/token_choice.h"

#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/random.h"

namespace hysparse {
namespace {

/// exp(logits) = 8, 4, 2, 1, 1: shares 1/2, 1/4, 1/8, 1/16, 1/16, out of order.
const std::vector<double> logits{std::log(1.0), std::log(8.0), std::log(2.0), std::log(4.0), std::log(1.0)};

std::map<std::int32_t, double> shares(const TokenChoiceConfig& config,
                                      const std::vector<std::int32_t>& seen = {}) {
  TokenChoice choice(config, static_cast<std::int64_t>(logits.size()));
  choice.add(seen);
  std::map<std::int32_t, double> counts;
  constexpr int points = 16000;  // u on a grid: the shares are exact but for the ends of intervals
  for (int i = 0; i < points; ++i) counts[choice.choose(logits, (i + 0.5) / points)] += 1.0 / points;
  return counts;
}

void expect_shares(const std::map<std::int32_t, double>& found,
                   const std::map<std::int32_t, double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [id, share] : expected) {
    ASSERT_TRUE(found.contains(id)) << id;
    EXPECT_NEAR(found.at(id), share, 2e-4) << id;
  }
}

TEST(TokenChoice, DrawsByProbability) {
  expect_shares(shares({.temperature = 1}),
                {{0, 1 / 16.}, {1, 1 / 2.}, {2, 1 / 8.}, {3, 1 / 4.}, {4, 1 / 16.}});
  const double total = 64 + 16 + 4 + 1 + 1;
  expect_shares(shares({.temperature = 0.5}),
                {{0, 1 / total}, {1, 64 / total}, {2, 4 / total}, {3, 16 / total}, {4, 1 / total}});
}

TEST(TokenChoice, KeepsTheLikeliest) {
  expect_shares(shares({.temperature = 1, .top_k = 2}), {{1, 2 / 3.}, {3, 1 / 3.}});
  expect_shares(shares({.temperature = 1, .top_k = 4}),  // of the equal ones the lower
                {{0, 1 / 15.}, {1, 8 / 15.}, {2, 2 / 15.}, {3, 4 / 15.}});
  expect_shares(shares({.temperature = 1, .top_p = 0.6}), {{1, 2 / 3.}, {3, 1 / 3.}});
  expect_shares(shares({.temperature = 1, .top_p = 1e-9}), {{1, 1}});
  expect_shares(shares({.temperature = 1, .min_p = 0.2}), {{1, 8 / 14.}, {3, 4 / 14.}, {2, 2 / 14.}});
  expect_shares(shares({.temperature = 1, .min_p = 1}), {{1, 1}});
  // top-p of what top-k left: 8/12 is enough.
  expect_shares(shares({.temperature = 1, .top_k = 2, .top_p = 0.66}), {{1, 1}});
}

TEST(TokenChoice, PenaltyOfWhatWasThere) {
  const double p = std::log(8.0) / std::log(2.0);  // log 8 / p = log 2
  expect_shares(shares({.repetition_penalty = p}, {1}), {{3, 1}});
  expect_shares(shares({.repetition_penalty = p, .temperature = 1, .top_k = 1}, {1, 1}), {{3, 1}});
  TokenChoice choice({.repetition_penalty = 2}, 3);
  choice.add(std::vector<std::int32_t>{0});
  EXPECT_EQ(choice.choose(std::vector<double>{-1, -1.5, -5}, 0), 1);  // -1 becomes -2
  choice.add(std::vector<std::int32_t>{1, 1});
  EXPECT_EQ(choice.choose(std::vector<double>{-1, -1.5, -5}, 0), 0);  // -2 and -3
}

TEST(TokenChoice, GreedyTakesTheLowerOfEquals) {
  TokenChoice choice({}, 4);
  EXPECT_EQ(choice.choose(std::vector<double>{1, 3, 3, 2}, 0.9), 1);
}

/// A large vocabulary, where top-p looks at a part first: as by sorting all.
TEST(TokenChoice, LargeVocabulary) {
  constexpr std::int64_t size = 5000;
  const CounterRandom random(5, "logits");
  std::vector<double> flat(size);
  for (std::int64_t i = 0; i < size; ++i)
    flat[static_cast<std::size_t>(i)] = random.normal(static_cast<std::uint64_t>(i));
  std::vector<double> sorted = flat;
  std::sort(sorted.rbegin(), sorted.rend());
  double total = 0, sum = 0;
  for (const double x : sorted) total += std::exp(x);
  std::size_t kept = 0;
  while (sum < 0.9 * total) sum += std::exp(sorted[kept++]);
  TokenChoice choice({.temperature = 1, .top_p = 0.9}, size);
  double least = 1e9;
  for (int i = 0; i < 20000; ++i)
    least = std::min(least, flat[static_cast<std::size_t>(choice.choose(flat, (i + 0.5) / 20000))]);
  EXPECT_EQ(least, sorted[kept - 1]);
}

TEST(TokenChoice, RefusesWhatIsNoNumber) {
  TokenChoice choice({}, 2);
  EXPECT_THROW(choice.choose(std::vector<double>{1, std::nan("")}, 0), Failure);
}

}  // namespace
}  // namespace hysparse
