/// Discrete choices (blocks of the oracle, experts of the router) in runs that are compared: one rank's are
/// recorded, with the scores they were made by; each layout takes them instead of its own, and counts where its
/// own would have been others. Rounding alone flips a choice only between scores that are nearly equal.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "launch/verify_result.h"
#include "model/choice_hook.h"

namespace hysparse {

/// The recorded choices of a step, in files of a directory (choices.safetensors, all as f64):
///   "N.blocks"  [rows, G, K], -1 behind the chosen ones;  "N.block_scores"  [rows, G, blocks], -inf: not
///   visible "N.experts" [rows, k];                                "N.expert_scores" [rows, X], the bias
///   included
/// of layer N, rows counting through the global batch.
class ChoiceRecorder final : public ChoiceHook {
 public:
  /// `rows` tokens of the global batch; `scoring` of the routers. One rank.
  ChoiceRecorder(std::int64_t rows, RouterScoring scoring) : rows_(rows), scoring_(scoring) {}
  void blocks(const Blocks& where, BlockLists& chosen) override;
  Tensor experts(const Experts& where) override;

  /// Nothing is recorded from here on.
  void stop() { stopped_ = true; }
  void write(const std::string& directory) const;

 private:
  Tensor& table(const std::string& name, const Shape& shape, double value);

  std::int64_t rows_;
  RouterScoring scoring_;
  bool stopped_ = false;
  std::map<std::string, Tensor> tables_;
};

class ChoiceReplayer final : public ChoiceHook {
 public:
  /// Of the directory that a ChoiceRecorder wrote to. Throws Failure.
  explicit ChoiceReplayer(const std::string& directory);
  void blocks(const Blocks& where, BlockLists& chosen) override;
  Tensor experts(const Experts& where) override;

  /// Choices are the layout's own from here on.
  void stop() { stopped_ = true; }
  /// This rank's so far.
  const VerifyFlips& flips() const { return flips_; }

 private:
  const Tensor& table(std::int64_t layer, const char* name) const;

  bool stopped_ = false;
  std::map<std::string, Tensor> tables_;
  VerifyFlips flips_;
};

}  // namespace hysparse
