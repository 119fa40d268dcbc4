/// The table of docs/mesh.md, read and evaluated, so that what the page says is what the code computes.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace hysparse::testing {

using Symbols = std::map<std::string, double>;

/// + - · / with parentheses and ⌈ ⌉ over numbers and symbols. Throws std::runtime_error, naming the text, for
/// anything else.
double evaluate(const std::string& formula, const Symbols& symbols);

struct FormulaRow {
  std::string group, operation, when, calls, bytes;
};
/// The rows of the table whose head is | group | operation | when | for | calls | bytes |.
std::vector<FormulaRow> read_formulas(const std::string& path);

/// The sum of the rows whose `when` is empty or among `conditions`, without groups of size 1 and without what
/// is never called.
TrafficTable evaluate_rows(const std::vector<FormulaRow>& rows, const Symbols& symbols,
                           const std::set<std::string>& conditions, const std::set<std::string>& groups);

}  // namespace hysparse::testing
