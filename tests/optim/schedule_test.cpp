#include "optim/schedule.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace hysparse {
namespace {

constexpr double rounding = 1e-15;

TEST(Schedule, WarmupRisesToThePeakInEveryKind) {
  for (const ScheduleKind kind : {ScheduleKind::constant, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const ScheduleConfig c{
        .kind = kind, .lr = 0.8, .warmup_steps = 4, .decay_steps = 10, .min_lr_ratio = 0.1, .steps = 100};
    EXPECT_NEAR(learning_rate(c, 0), 0.2, rounding);
    EXPECT_NEAR(learning_rate(c, 1), 0.4, rounding);
    EXPECT_EQ(learning_rate(c, 3), 0.8);
  }
}

TEST(Schedule, Constant) {
  const ScheduleConfig c{.kind = ScheduleKind::constant, .lr = 0.5, .steps = 10};
  for (const int s : {0, 5, 9, 100}) EXPECT_EQ(learning_rate(c, s), 0.5);
}

TEST(Schedule, Cosine) {
  const ScheduleConfig c{
      .kind = ScheduleKind::cosine, .lr = 1.0, .warmup_steps = 2, .min_lr_ratio = 0.2, .steps = 10};
  EXPECT_EQ(learning_rate(c, 1), 1.0);
  EXPECT_NEAR(learning_rate(c, 5), 0.2 + 0.8 * 0.5, rounding);                    // half way: 4 of 8
  EXPECT_NEAR(learning_rate(c, 3), 0.2 + 0.8 * 0.8535533905932737622, rounding);  // (1 + cos(pi / 4)) / 2
  EXPECT_EQ(learning_rate(c, 9), 0.2);
  EXPECT_EQ(learning_rate(c, 50), 0.2);
  for (int s = 2; s < 10; ++s) EXPECT_LT(learning_rate(c, s), learning_rate(c, s - 1));
}

TEST(Schedule, Wsd) {
  const ScheduleConfig c{.kind = ScheduleKind::wsd,
                         .lr = 1.0,
                         .warmup_steps = 2,
                         .decay_steps = 4,
                         .min_lr_ratio = 0.2,
                         .steps = 10};
  for (const int s : {1, 2, 5}) EXPECT_EQ(learning_rate(c, s), 1.0);
  EXPECT_NEAR(learning_rate(c, 6), 0.8, rounding);
  EXPECT_NEAR(learning_rate(c, 7), 0.6, rounding);
  EXPECT_NEAR(learning_rate(c, 8), 0.4, rounding);
  EXPECT_EQ(learning_rate(c, 9), 0.2);
  EXPECT_EQ(learning_rate(c, 10), 0.2);
}

TEST(Schedule, ShortRunsAndMissingParts) {
  // Decay longer than what follows the warm-up: it takes all of that.
  const ScheduleConfig tight{.kind = ScheduleKind::wsd,
                             .lr = 1.0,
                             .warmup_steps = 2,
                             .decay_steps = 60,
                             .min_lr_ratio = 0.0,
                             .steps = 4};
  EXPECT_EQ(learning_rate(tight, 1), 1.0);
  EXPECT_NEAR(learning_rate(tight, 2), 0.5, rounding);
  EXPECT_EQ(learning_rate(tight, 3), 0.0);
  // Warm-up longer than the run.
  const ScheduleConfig warm{
      .kind = ScheduleKind::wsd, .lr = 1.0, .warmup_steps = 20, .decay_steps = 60, .steps = 5};
  EXPECT_NEAR(learning_rate(warm, 4), 0.25, rounding);
  // No decay: the peak to the end.
  const ScheduleConfig flat{.kind = ScheduleKind::wsd, .lr = 1.0, .steps = 5};
  EXPECT_EQ(learning_rate(flat, 4), 1.0);
  EXPECT_EQ(learning_rate(flat, 0), 1.0);
  EXPECT_THROW(learning_rate(flat, -1), CheckFailure);
}

}  // namespace
}  // namespace hysparse
