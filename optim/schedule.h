/// Learning rate as a function of the step.
#pragma once

#include <cstdint>

namespace hysparse {

enum class ScheduleKind { constant, cosine, wsd };

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::wsd;
  double lr = 3e-3;               ///< the peak
  std::int64_t warmup_steps = 0;  ///< W
  std::int64_t decay_steps = 0;   ///< D, wsd only
  double min_lr_ratio = 0.1;      ///< r: the last step's lr over the peak, cosine and wsd
  std::int64_t steps = 1;         ///< N, of the whole run
};

/// The learning rate of step s, counted from 0; n = N - W steps follow the warm-up.
///   s < W       lr * (s + 1) / W                                     (the last warm-up step has the peak)
///   constant    lr
///   cosine      lr * (r + (1 - r) * (1 + cos(pi * (s - W + 1) / n)) / 2)
///   wsd         lr until the last D' = min(D, n) steps, in which  lr * (1 - (1 - r) * (s - (N - D') + 1) / D')
/// cosine and wsd (with D > 0) reach r * lr exactly at s = N - 1 and stay there.
double learning_rate(const ScheduleConfig& config, std::int64_t step);

}  // namespace hysparse
