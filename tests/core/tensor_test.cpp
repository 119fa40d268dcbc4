// Tensors, their storage and dtypes, random numbers.
#include "core/tensor.h"

#include <cmath>
#include <limits>

#include "core/backend.h"
#include "core/random.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

TEST(Shape, CountsAndPrints) {
  EXPECT_EQ((Shape{2, 3, 4}).numel(), 24);
  EXPECT_EQ((Shape{2, 0}).numel(), 0);
  EXPECT_EQ(Shape{}.numel(), 1);
  EXPECT_EQ((Shape{2, 3}).str(), "[2, 3]");
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{2, 3, 1}));
  EXPECT_THROW((void)(Shape{2, 3})[2], CheckFailure);
}

TEST(Tensor, ViewsAndSlicesShareStorage) {
  const Tensor t = Tensor::from<float>({0, 1, 2, 3, 4, 5}, {3, 2});
  const Tensor rows = t.slice(1, 3);
  EXPECT_EQ(rows.shape(), (Shape{2, 2}));
  EXPECT_EQ(rows.to_vector<float>(), (std::vector<float>{2, 3, 4, 5}));
  const Tensor flat = rows.view({4});
  flat.data<float>()[0] = 9;
  EXPECT_EQ(t.data<float>()[2], 9);
  const Tensor inner = rows.slice(1, 2).slice(0, 1);
  EXPECT_EQ(inner.to_vector<float>(), (std::vector<float>{4, 5}));
  EXPECT_EQ(t.slice(3, 3).numel(), 0);
  EXPECT_THROW(t.slice(2, 4), CheckFailure);
  EXPECT_THROW(t.view({5}), CheckFailure);
  EXPECT_THROW((void)t.data<double>(), CheckFailure);
}

TEST(Tensor, CloneIsApart) {
  const Tensor t = Tensor::from<std::int32_t>({1, 2}, {2});
  const Tensor c = t.clone();
  c.data<std::int32_t>()[0] = 7;
  EXPECT_EQ(t.data<std::int32_t>()[0], 1);
  t.zero_();
  EXPECT_EQ(t.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 0}));
}

TEST(Tensor, ConvertsBetweenFloats) {
  const Tensor wide = Tensor::from<double>({1.0, -2.5, 1e300, 1.0 + 0x1p-30}, {4});
  const Tensor narrow = wide.to(DType::f32);
  EXPECT_EQ(narrow.data<float>()[1], -2.5f);
  EXPECT_TRUE(std::isinf(narrow.data<float>()[2]));
  EXPECT_EQ(narrow.data<float>()[3], 1.0f);
  EXPECT_EQ(narrow.to(DType::f64).data<double>()[1], -2.5);
  const Tensor brief = narrow.to(DType::bf16);
  EXPECT_EQ(static_cast<float>(brief.data<BFloat16>()[1]), -2.5f);
  EXPECT_EQ(narrow.to(DType::f32).raw(), narrow.raw());
}

TEST(BFloat16, RoundsToNearestEven) {
  const float one = 1.0f, step = 0x1p-7f;  // 8 bits of significand
  EXPECT_EQ(static_cast<float>(BFloat16(one + step / 4)), one);
  EXPECT_EQ(static_cast<float>(BFloat16(one + step / 2)), one);                // tie, to even: down
  EXPECT_EQ(static_cast<float>(BFloat16(one + 1.5f * step)), one + 2 * step);  // tie, to even: up
  EXPECT_EQ(static_cast<float>(BFloat16(one + step * 0.75f)), one + step);
  EXPECT_EQ(static_cast<float>(BFloat16(-one - 1.5f * step)), -one - 2 * step);
  EXPECT_TRUE(std::isinf(static_cast<float>(BFloat16(std::numeric_limits<float>::max()))));
  EXPECT_TRUE(std::isinf(static_cast<float>(BFloat16(std::numeric_limits<float>::infinity()))));
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(
      std::isnan(static_cast<float>(BFloat16(std::bit_cast<float>(0x7f800001u)))));  // payload in the low half
  EXPECT_EQ(BFloat16(-0.0f).bits, 0x8000u);
}

TEST(Storage, CountsLiveAndPeakBytes) {
  const std::int64_t before = memory_use().live_bytes;
  reset_memory_peak();
  {
    const Tensor a = Tensor::empty({1000}, DType::f64);
    EXPECT_EQ(memory_use().live_bytes - before, 8000);
    const Tensor b = a.slice(10, 20);
    EXPECT_EQ(memory_use().live_bytes - before, 8000);
    { const Tensor c = a.clone(); }
    EXPECT_EQ(memory_use().live_bytes - before, 8000);
  }
  EXPECT_EQ(memory_use().live_bytes, before);
  EXPECT_EQ(memory_use().peak_bytes - before, 16000);
  reset_memory_peak();
  EXPECT_EQ(memory_use().peak_bytes, before);
}

TEST(Storage, BlocksAreAligned) {
  for (const std::int64_t n : {0, 1, 15, 16, 17, 1000}) {
    const Tensor t = Tensor::empty({n}, DType::f32);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(t.raw()) % Storage::alignment, 0u) << n;
  }
}

TEST(Storage, AForeignDeviceIsRefused) {
  if (!cuda_build) {
    EXPECT_THROW(Tensor::empty({1}, DType::f32, {DeviceType::cuda, 0}), Error);
  }
}

TEST(Philox, KnownAnswersOfRandom123) {
  using Block = std::array<std::uint32_t, 4>;
  constexpr std::uint32_t ones = 0xffffffffu;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CounterRandom, StreamsAreApartAndUniform) {
  const CounterRandom a(1, "a"), b(1, "b"), c(2, "a"), again(1, "a");
  const int count = 100'000;
  double sum = 0, squares = 0, normal = 0, normal_squares = 0;
  int low = 0;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i) {
    const double u = a.uniform(i);
    ASSERT_TRUE(u >= 0 && u < 1);
    EXPECT_EQ(u, again.uniform(i));
    EXPECT_FALSE(u == b.uniform(i) || u == c.uniform(i));
    sum += u;
    squares += u * u;
    normal += a.normal(i);
    normal_squares += a.normal(i) * a.normal(i);
    const std::uint64_t below = a.below(i, 10);
    ASSERT_LT(below, 10u);
    low += below == 0;
  }
  // Five standard deviations of each mean.
  EXPECT_NEAR(sum / count, 0.5, 5 * std::sqrt(1.0 / 12 / count));
  EXPECT_NEAR(squares / count, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / count));
  EXPECT_NEAR(normal / count, 0.0, 5 * std::sqrt(1.0 / count));
  EXPECT_NEAR(normal_squares / count, 1.0, 5 * std::sqrt(2.0 / count));
  EXPECT_NEAR(low / static_cast<double>(count), 0.1, 5 * std::sqrt(0.09 / count));
}

TEST(HashName, IsFnv1a) {
  EXPECT_EQ(hash_name(""), 0xcbf29ce484222325u);
  EXPECT_EQ(hash_name("a"), 0xaf63dc4c8601ec8cu);
}

}  // namespace
}  // namespace hysparse::testing
