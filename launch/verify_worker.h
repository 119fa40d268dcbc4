/// Watches the steps of one layout's run and collects what verify compares.
#pragma once

#include "launch/step_observer.h"
#include "launch/verify_result.h"

namespace hysparse {

class VerifyRecorder final : public StepObserver {
 public:
  /// In step 1 puts every parameter together from the pieces that their owners hold (over the world group), and
  /// measures how far other copies are from them.
  void gradients(std::int64_t step, ParameterSet& parameters, const ProcessGroups& groups) override;
  void stepped(const StepReport& report, const ProcessGroups& groups) override;

  /// The whole result, on every rank. To be called while what was watched lives. Collective.
  VerifyResult finish();

 private:
  VerifyResult result_;
  const ProcessGroups* groups_ = nullptr;
  TrafficTable counted_;  // on this rank, up to the end of the step before
};

}  // namespace hysparse
