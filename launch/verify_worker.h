/// Watches the steps of one layout's run and collects what verify compares.
#pragma once

#include <optional>
#include <string>

#include "launch/step_observer.h"
#include "launch/verify_choices.h"
#include "launch/verify_result.h"

namespace hysparse {

class VerifyRecorder final : public StepObserver {
 public:
  /// Of step 1, at most one of the two: records its choices, or takes recorded ones.
  void record_choices(std::int64_t rows, RouterScoring scoring) { recorder_.emplace(rows, scoring); }
  void replay_choices(const std::string& directory) { replayer_.emplace(directory); }

  ChoiceHook* choices() override;
  /// In step 1 puts every parameter together from the pieces that their owners hold (over the world group), and
  /// measures how far other copies are from them.
  void gradients(std::int64_t step, ParameterSet& parameters, const ProcessGroups& groups) override;
  void stepped(const StepReport& report, const ProcessGroups& groups) override;

  /// The whole result, on every rank. To be called while what was watched lives. Collective.
  VerifyResult finish();
  /// Null where none were recorded.
  const ChoiceRecorder* recorded() const { return recorder_ ? &*recorder_ : nullptr; }

 private:
  std::optional<ChoiceRecorder> recorder_;
  std::optional<ChoiceReplayer> replayer_;
  VerifyResult result_;
  const ProcessGroups* groups_ = nullptr;
  TrafficTable counted_;  // on this rank, up to the end of the step before
};

}  // namespace hysparse
