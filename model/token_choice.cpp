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

std::int32_t TokenChoice::choose(std::span<const float> logits, double u) {
  HYSPARSE_CHECK(logits.size() == logits_.size(), "{} logits for {} tokens", logits.size(), logits_.size());
  std::copy(logits.begin(), logits.end(), logits_.begin());
  for (const std::int32_t id : seen_ids_) {
    double& logit = logits_[static_cast<std::size_t>(id)];
    logit = logit > 0 ? logit / config_.repetition_penalty : logit * config_.repetition_penalty;
  }
  if (std::any_of(logits_.begin(), logits_.end(), [](double x) { return std::isnan(x); }))
    throw_failure("generation: a logit is not a number");
  if (config_.temperature == 0) return likeliest();

  const double largest = logits_[static_cast<std::size_t>(likeliest())];
  const auto weight = [&](std::int32_t id) {
    return std::exp((logits_[static_cast<std::size_t>(id)] - largest) / config_.temperature);
  };
  order_.resize(logits_.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const double x = logits_[static_cast<std::size_t>(a)], y = logits_[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  if (config_.top_k > 0 && config_.top_k < static_cast<std::int64_t>(order_.size())) {
    std::nth_element(order_.begin(), order_.begin() + config_.top_k, order_.end(), before);
    order_.resize(static_cast<std::size_t>(config_.top_k));
  }
  std::sort(order_.begin(), order_.end(), before);
  weights_.clear();
  for (const std::int32_t id : order_) weights_.push_back(weight(id));

  double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  if (config_.top_p < 1) {
    double sum = 0;
    std::size_t kept = 0;
    while (kept < weights_.size() && sum < config_.top_p * total) sum += weights_[kept++];
    weights_.resize(std::max<std::size_t>(1, kept));
  }
  while (weights_.size() > 1 && weights_.back() < config_.min_p) weights_.pop_back();  // weights_[0] is 1
  total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  double left = u * total;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return order_[i];
  }
  return order_[weights_.size() - 1];
}

}  // namespace hysparse
