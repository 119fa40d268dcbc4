/// A look into training steps from outside, for proofs: what `hysparse verify` compares between layouts.
#pragma once

#include <cstdint>

#include "launch/run_log.h"
#include "model/choice_hook.h"
#include "model/parameter_set.h"
#include "parallel/process_group.h"

namespace hysparse {

/// Called on every rank alike; may communicate over the groups.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  /// Sees what layers choose; null: nobody does.
  virtual ChoiceHook* choices() { return nullptr; }
  /// After the reduction, before the optimizer: gradient_shard() of every buffer of the parameters holds this
  /// rank's part of the summed gradients, not yet clipped. `step` counts from 1.
  virtual void gradients(std::int64_t step, ParameterSet& parameters, const ProcessGroups& groups) = 0;
  /// After the step.
  virtual void stepped(const StepReport& report, const ProcessGroups& groups) = 0;
};

}  // namespace hysparse
