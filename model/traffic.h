/// What one training step sends, counted before it runs: the formulas of docs/mesh.md as code. A run's own
/// count (Communicator::traffic, `hysparse verify --json`) is equal to it; tests/launch/traffic_test.cpp.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/layout.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace hysparse {

/// The sizes of a training step that traffic depends on.
struct TrainingStep {
  std::int64_t sequences = 1;      ///< of a micro-batch
  std::int64_t seq_len = 1;        ///< tokens
  std::int64_t micro_batches = 1;  ///< on each data-parallel rank
  DType dtype = DType::f32;        ///< f32 or f64
  Recompute recompute = Recompute::none;
};

/// By group (axis_name) and operation, calls and bytes of all ranks in one step, as Communicator counts them:
/// the size of each call's send buffer. Groups of one rank and operations that nobody calls are left out.
///
/// How many rows go to the experts depends on the router. With balanced_routing they are counted exactly; else
/// the group "ep_etp" is left out, and all the rest is exact. Schedules of the same chunks send the same.
TrafficTable step_traffic(const ModelConfig& config, const Mesh& mesh, const ModelLayout& layout,
                          const TrainingStep& step);

/// Rows that balanced routing sends for one micro-batch of `step` when `ep` ranks share the experts (and etp is
/// 1): over its tokens, the number of different ranks that hold one of the experts that keep the token.
std::int64_t balanced_rows(const MoeConfig& config, const TrainingStep& step, int ep);

}  // namespace hysparse
