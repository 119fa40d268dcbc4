#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace hysparse {

double learning_rate(const ScheduleConfig& config, std::int64_t step) {
  HYSPARSE_CHECK(step >= 0 && config.warmup_steps >= 0 && config.decay_steps >= 0,
                 "step {}, warm-up {}, decay {}", step, config.warmup_steps, config.decay_steps);
  if (step < config.warmup_steps) {
    return config.lr * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  if (config.kind == ScheduleKind::constant) return config.lr;
  if (step + 1 >= config.steps) {
    const bool decays = config.kind == ScheduleKind::cosine || config.decay_steps > 0;
    return decays ? config.lr * config.min_lr_ratio : config.lr;
  }
  const std::int64_t after_warmup = config.steps - config.warmup_steps;
  if (config.kind == ScheduleKind::cosine) {
    const double progress =
        static_cast<double>(step - config.warmup_steps + 1) / static_cast<double>(after_warmup);
    const double share = (1.0 + std::cos(std::numbers::pi * progress)) / 2.0;
    return config.lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * share);
  }
  const std::int64_t decay = std::min(config.decay_steps, after_warmup);
  const std::int64_t decayed = step - (config.steps - decay) + 1;
  if (decayed <= 0) return config.lr;
  return config.lr *
         (1.0 - (1.0 - config.min_lr_ratio) * static_cast<double>(decayed) / static_cast<double>(decay));
}

}  // namespace hysparse
