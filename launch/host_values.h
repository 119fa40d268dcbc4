/// A place on the host for the values of a run's parameters, whatever device they live on: files are read into
/// it, initial values made in it.
#pragma once

#include <memory>

#include "launch/run_config.h"
#include "model/parameter_set.h"
#include "optim/sharded_optimizer.h"
#include "parallel/process_group.h"

namespace hysparse {

class HostValues {
 public:
  /// `parameters` themselves when they lie on the host; else a copy of their layout in f32.
  HostValues(const RunConfig& config, ParameterSet& parameters, const ProcessGroups& groups);

  ParameterSet& values() { return own_ ? *own_ : parameters_; }
  /// Brings what values() holds to the optimizer's masters and to the device. Collective.
  void apply(ShardedOptimizer& optimizer);

 private:
  ParameterSet& parameters_;
  std::unique_ptr<ParameterSet> own_;  // null: on the host
};

}  // namespace hysparse
