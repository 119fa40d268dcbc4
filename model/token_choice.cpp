#include "model/token_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace hysparse {

TokenChoice::TokenChoice(const TokenChoiceConfig& config, std::int64_t vocab_size)
    : config_(config),
      seen_(static_cast<std::size_t>(vocab_size)),
      logits_(static_cast<std::size_t>(vocab_size)) {
  HYSPARSE_CHECK(config.temperature >= 0 && config.top_k >= 0 && config.top_p > 0 && config.min_p >= 0 &&
                 config.min_p <= 1 && config.repetition_penalty > 0);
}

void TokenChoice::add(std::span<const std::int32_t> ids) {
  if (config_.repetition_penalty == 1) return;
  for (const std::int32_t id : ids) {
    if (seen_[static_cast<std::size_t>(id)]) continue;
    seen_[static_cast<std::size_t>(id)] = true;
    seen_ids_.push_back(id);
  }
}

std::int32_t TokenChoice::likeliest() const {
  return static_cast<std::int32_t>(std::max_element(logits_.begin(), logits_.end()) - logits_.begin());
}

/// Of order_, the likeliest first, of equals the lower.
void TokenChoice::keep_likeliest(std::int64_t count) {
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const double x = logits_[static_cast<std::size_t>(a)], y = logits_[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  if (count < static_cast<std::int64_t>(order_.size())) {
    std::nth_element(order_.begin(), order_.begin() + count, order_.end(), before);
    order_.resize(static_cast<std::size_t>(count));
  }
  std::sort(order_.begin(), order_.end(), before);
}

/// Keeps the likeliest of order_ whose weights reach top_p of the sum. Few do, as a rule: sorts no more than
/// needed.
void TokenChoice::keep_share() {
  double total = 0;
  for (const std::int32_t id : order_) total += weights_[static_cast<std::size_t>(id)];
  const std::vector<std::int32_t> all = order_;
  for (std::int64_t sorted = 256;; sorted *= 8) {
    order_ = all;
    keep_likeliest(sorted);
    double sum = 0;
    for (std::size_t kept = 0; kept < order_.size(); ++kept) {
      sum += weights_[static_cast<std::size_t>(order_[kept])];
      if (sum >= config_.top_p * total) return order_.resize(kept + 1);
    }
    if (order_.size() == all.size()) return;
  }
}

std::int32_t TokenChoice::choose(std::span<const double> logits, double u) {
  HYSPARSE_CHECK(logits.size() == logits_.size(), "{} logits for {} tokens", logits.size(), logits_.size());
  std::copy(logits.begin(), logits.end(), logits_.begin());
  for (const std::int32_t id : seen_ids_) {
    double& logit = logits_[static_cast<std::size_t>(id)];
    logit = logit > 0 ? logit / config_.repetition_penalty : logit * config_.repetition_penalty;
  }
  if (std::any_of(logits_.begin(), logits_.end(), [](double x) { return std::isnan(x); }))
    throw_failure("generate: a logit is not a number: the weights are damaged, or training diverged");
  if (config_.temperature == 0) return likeliest();

  const double largest = logits_[static_cast<std::size_t>(likeliest())];
  weights_.resize(logits_.size());
  for (std::size_t i = 0; i < logits_.size(); ++i)
    weights_[i] = std::exp((logits_[i] - largest) / config_.temperature);
  order_.resize(logits_.size());
  std::iota(order_.begin(), order_.end(), 0);
  if (config_.top_k > 0) keep_likeliest(config_.top_k);
  if (config_.top_p < 1) keep_share();
  if (config_.min_p > 0)  // the likeliest weighs 1
    std::erase_if(order_,
                  [&](std::int32_t id) { return weights_[static_cast<std::size_t>(id)] < config_.min_p; });

  double total = 0;
  for (const std::int32_t id : order_) total += weights_[static_cast<std::size_t>(id)];
  double left = u * total;
  for (const std::int32_t id : order_) {
    left -= weights_[static_cast<std::size_t>(id)];
    if (left < 0) return id;
  }
  return likeliest();  // rounding left a rest
}

}  // namespace hysparse
