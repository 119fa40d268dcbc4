/// What `hysparse verify` prints: a table for people, one JSON object for programs.
#pragma once

#include <string>
#include <vector>

#include "launch/run_config.h"
#include "launch/verify_compare.h"
#include "launch/verify_layouts.h"
#include "launch/verify_result.h"

namespace hysparse {

/// One layout's run and how it compares. A run that gave no result did not pass, and its problems say why.
struct VerifyOutcome {
  VerifyLayout layout;
  bool finished = false;  ///< there is a result to compare
  VerifyComparison comparison;
  TrafficTable traffic;
  double seconds = 0;
};

/// The table's rows, each ending in a newline; the problems of a layout that did not pass stand below its row.
class VerifyTable {
 public:
  VerifyTable(const std::vector<VerifyLayout>& layouts, const VerifyTolerances& tolerances);

  std::string header() const;
  std::string row(const VerifyOutcome& outcome) const;

 private:
  std::size_t width_;  // of the names
  bool later_;         // steps that are reported but not judged
};

/// "42 layouts: all equal to one rank" or "3 of 42 layouts FAIL: tp=2; ...".
std::string verify_summary(const std::vector<VerifyOutcome>& outcomes);

/// {"config", "dtype", "steps", "tolerances": {...}, "reference": {"steps": [...]}, "layouts": [...],
/// "passed"}; docs/verify.md.
std::string verify_json(const RunConfig& config, const std::string& path, const VerifyResult& reference,
                        const VerifyTolerances& tolerances, const std::vector<VerifyOutcome>& outcomes);

}  // namespace hysparse
