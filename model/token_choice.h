/// Which token comes next: from the logits of all, by the usual rules of sampling.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hysparse {

/// Applied in this order. Off: the defaults.
struct TokenChoiceConfig {
  double repetition_penalty = 1;  ///< logits of tokens that were there: divided by it when positive, else times
  double temperature = 0;         ///< logits are divided by it; 0: the likeliest token, the lower one on a tie
  std::int64_t top_k = 0;         ///< the k likeliest are kept; 0: all
  double top_p = 1;               ///< the likeliest are kept until their probabilities sum up to p
  double min_p = 0;               ///< kept are those at least min_p times as likely as the likeliest
};

class TokenChoice {
 public:
  /// For a vocabulary of `vocab_size`.
  TokenChoice(const TokenChoiceConfig& config, std::int64_t vocab_size);

  /// Counts `ids` as there, for the penalty.
  void add(std::span<const std::int32_t> ids);
  /// The token for the uniform number u in [0, 1): the first, from the likeliest down and of equals from the
  /// lower, at which the sum of the probabilities of the kept tokens exceeds u. At least one token is always
  /// kept. Throws Failure when a logit is not a number.
  std::int32_t choose(std::span<const float> logits, double u);

 private:
  std::int32_t likeliest() const;

  const TokenChoiceConfig config_;
  std::vector<bool> seen_;
  std::vector<std::int32_t> seen_ids_;
  std::vector<double> logits_;        // after the penalty
  std::vector<std::int32_t> order_;  // ids of the kept tokens, the likeliest first
  std::vector<double> weights_;       // of those, exp(logit - largest)
};

}  // namespace hysparse
