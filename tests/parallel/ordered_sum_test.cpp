#include "parallel/ordered_sum.h"

#include <gtest/gtest.h>

#include "core/tensor.h"

namespace hysparse {
namespace {

TEST(OrderedSum, AddsInOrderOfRankAtEverySize) {
  for (const std::int64_t n : {0, 1, 3, 1023, 1024, 1025, 4000}) {
    std::vector<std::vector<float>> sources(3);
    for (std::size_t r = 0; r < 3; ++r) {
      for (std::int64_t i = 0; i < n; ++i)
        sources[r].push_back((r == 1 ? -1.0f : 1.0f) * (1e8f + 3.0f * static_cast<float>(i)));
    }
    std::vector<float> expected;
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      expected.push_back((sources[0][i] + sources[1][i]) + sources[2][i]);
    }
    for (std::size_t aliased = 0; aliased < 3; ++aliased) {
      std::vector<std::vector<float>> s = sources;
      const std::vector<const void*> pointers{s[0].data(), s[1].data(), s[2].data()};
      cpu::ordered_sum(DType::f32, pointers, n, s[aliased].data());
      EXPECT_EQ(s[aliased], expected) << n << " " << aliased;
    }
  }
}

TEST(OrderedSum, Bf16AddsInFloatAndRoundsOnce) {
  // 1 + 2^-8 + 2^-8: each addition alone would round back to 1 (8 bits of mantissa), the sum in float to 1 +
  // 2^-7.
  const BFloat16 one(1.0f), tiny(0.00390625f);
  const std::vector<const void*> pointers{&one, &tiny, &tiny};
  BFloat16 out;
  cpu::ordered_sum(DType::bf16, pointers, 1, &out);
  EXPECT_EQ(static_cast<float>(out), 1.0078125f);
}

TEST(OrderedSum, Integers) {
  const std::int64_t big = (std::int64_t{1} << 60) + 1, small = 2;
  const std::vector<const void*> longs{&big, &small};
  std::int64_t sum = 0;
  cpu::ordered_sum(DType::i64, longs, 1, &sum);
  EXPECT_EQ(sum, big + small);
}

}  // namespace
}  // namespace hysparse
