/// The layouts that `hysparse verify` compares with one rank: how they are written, and which there are for a
/// config and a number of ranks.
///
/// Written as "tp=2,sp,pp=2,interleaved=2,dp=2,ep=4,etp=1,recompute=layer", several with ";" between them. What
/// is left out is 1, off, 1F1B, none; dp is then the least that makes room for ep * etp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/run_config.h"

namespace hysparse {

struct VerifyLayout {
  MeshConfig mesh;
  int dp = 1;
  bool sequence_parallel = false;
  std::int64_t virtual_stages = 1;  ///< above 1: the interleaved schedule
  Recompute recompute = Recompute::none;

  int world() const { return mesh.tp * mesh.pp * mesh.cp * dp; }
  bool interleaved() const { return virtual_stages > 1; }
  /// As it is written, "dp=1" for one rank: parse_layouts reads it back.
  std::string name() const;
  /// The keys of a config that make it train this way.
  std::vector<std::string> overrides() const;
  /// Why the config cannot be trained this way; empty when it can.
  std::vector<std::string> problems(const RunConfig& config) const;
};

/// Reads "tp=2,pp=2;dp=4". Throws Error with every problem: unknown words, sizes that are not positive, more
/// than `np` ranks, the same layout twice.
std::vector<VerifyLayout> parse_layouts(const std::string& text, int np);

/// Every layout of up to `np` ranks that the config allows: tp 1, 2, 4; pp 1, 2, 3; dp 1, 2, 4, 8; ep 1, 2, 4,
/// 8; etp 1, 2; with tp sequence parallelism off and on; with pp both schedules (interleaved with 2 chunks a
/// stage). Recompute none, selective, layer take turns along the list; on one rank only the latter two are
/// there. Small worlds first, one order for one config.
std::vector<VerifyLayout> all_layouts(const RunConfig& config, int np);

/// A dozen in which everything occurs, those of them that fit. For a model without experts ep and etp are left
/// out.
std::vector<VerifyLayout> quick_layouts(const RunConfig& config, int np);

/// What --layouts means: all, quick, or a list, of which every layout must be possible (Error).
std::vector<VerifyLayout> chosen_layouts(const std::string& text, const RunConfig& config, int np);

}  // namespace hysparse
