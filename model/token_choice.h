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
  /// The token for the uniform number u in [0, 1), by the probabilities of the kept tokens, of which there is
  /// always one: a pure function of logits, what was added, u and the config. Throws Failure when a logit is
  /// not a number.
  std::int32_t choose(std::span<const double> logits, double u);

 private:
  std::int32_t likeliest() const;
  void keep_likeliest(std::int64_t count);
  void keep_share();

  const TokenChoiceConfig config_;
  std::vector<bool> seen_;
  std::vector<std::int32_t> seen_ids_;
  std::vector<double> logits_;       // after the penalty
  std::vector<std::int32_t> order_;  // ids of the kept tokens
  std::vector<double> weights_;      // of all, exp((logit - largest) / temperature)
};

}  // namespace hysparse
