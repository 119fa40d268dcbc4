/// What one layout's run found, as `hysparse verify-layout` leaves it for `hysparse verify`: a directory with
///   result.json            {"steps": [{"loss", "grad_norm", "load"}], "traffic": {group: {operation: {"calls",
///   "bytes"}}},
///                           "parameters": {name: {"owned", "copies"}},
///                           "flips": {"choices", "flips", "largest_margin"}}
///   gradients.safetensors  the summed, unclipped gradient of each parameter in step 1, whole, as f32 or f64
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "parallel/communicator.h"

namespace hysparse {

struct VerifyStep {
  double loss = 0, grad_norm = 0;
  std::vector<double> load;  ///< largest over mean expert load of each MoE layer, then the share dropped
};

struct VerifyGradient {
  std::string name;
  Tensor value;            ///< global shape
  std::int64_t owned = 0;  ///< elements that some rank owns, each owner counted: numel() when all is well
  double copies = 0;       ///< norm of the difference between the owners' and all other copies
};

/// Choices of step 1 that were taken from one rank's run (launch/verify_choices.h), and the own ones that would
/// have been others.
struct VerifyFlips {
  std::int64_t choices = 0;  ///< lists of blocks or experts, on every rank that made them
  std::int64_t flips = 0;
  double largest_margin = 0;  ///< between the scores that were exchanged
};

struct VerifyResult {
  std::vector<VerifyStep> steps;
  VerifyFlips flips;
  TrafficTable traffic;  ///< of the last step
  std::vector<VerifyGradient> gradients;
};

/// Throws Failure when the files cannot be written.
void write_result(const std::string& directory, const VerifyResult& result);
/// Throws Failure when they are missing or damaged.
VerifyResult read_result(const std::string& directory);

}  // namespace hysparse
