#include "tests/model/formula_table.h"

#include <cctype>
#include <cmath>
#include <fstream>
#include <stdexcept>

namespace hysparse::testing {
namespace {

/// Recursive descent: sum of products of factors.
class Evaluator {
 public:
  Evaluator(const std::string& text, const Symbols& symbols) : text_(text), symbols_(symbols) {}

  double run() {
    const double value = sum();
    if (at_ != text_.size()) fail();
    return value;
  }

 private:
  [[noreturn]] void fail() const {
    throw std::runtime_error(text_ + ": not understood at \"" + text_.substr(at_) + "\"");
  }

  bool take(const std::string& token) {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    if (text_.compare(at_, token.size(), token) != 0) return false;
    at_ += token.size();
    return true;
  }

  double sum() {
    double value = product();
    for (;;) {
      if (take("+")) {
        value += product();
      } else if (take("-")) {
        value -= product();
      } else {
        return value;
      }
    }
  }

  double product() {
    double value = factor();
    for (;;) {
      if (take("·")) {
        value *= factor();
      } else if (take("/")) {
        value /= factor();
      } else {
        return value;
      }
    }
  }

  double factor() {
    if (take("(")) return closed(")");
    if (take("⌈")) return std::ceil(closed("⌉"));
    std::string word;
    while (at_ < text_.size() && std::isalnum(static_cast<unsigned char>(text_[at_])) != 0)
      word += text_[at_++];
    if (word.empty()) fail();
    if (std::isdigit(static_cast<unsigned char>(word[0])) != 0) return std::stod(word);
    const auto found = symbols_.find(word);
    if (found == symbols_.end()) throw std::runtime_error(text_ + ": no symbol " + word);
    return found->second;
  }

  double closed(const std::string& end) {
    const double value = sum();
    if (!take(end)) fail();
    return value;
  }

  const std::string& text_;
  const Symbols& symbols_;
  std::size_t at_ = 0;
};

/// The cells of a line of a table, without spaces and back quotes around them.
std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells;
  for (std::size_t begin = 1, end; (end = line.find('|', begin)) != std::string::npos; begin = end + 1) {
    const std::string cell = line.substr(begin, end - begin);
    const std::size_t first = cell.find_first_not_of(" `"), last = cell.find_last_not_of(" `");
    cells.push_back(first == std::string::npos ? "" : cell.substr(first, last + 1 - first));
  }
  return cells;
}

/// A whole number, or an exception that names the formula.
std::int64_t whole(const std::string& formula, const Symbols& symbols) {
  const double value = evaluate(formula, symbols);
  if (value != std::floor(value)) throw std::runtime_error(formula + ": not a whole number");
  return static_cast<std::int64_t>(value);
}

}  // namespace

double evaluate(const std::string& formula, const Symbols& symbols) {
  return Evaluator(formula, symbols).run();
}

std::vector<FormulaRow> read_formulas(const std::string& path) {
  std::ifstream in(path);
  std::vector<FormulaRow> rows;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line == "| group | operation | when | for | calls | bytes |") {
      inside = true;
    } else if (inside && !line.starts_with("|")) {
      break;
    } else if (inside && !line.starts_with("| ---")) {
      const std::vector<std::string> cells = cells_of(line);
      if (cells.size() != 6) throw std::runtime_error(line + ": not six cells");
      rows.push_back({cells[0], cells[1], cells[2], cells[4], cells[5]});
    }
  }
  return rows;
}

TrafficTable evaluate_rows(const std::vector<FormulaRow>& rows, const Symbols& symbols,
                           const std::set<std::string>& conditions, const std::set<std::string>& groups) {
  TrafficTable table;
  for (const FormulaRow& row : rows) {
    if (!groups.contains(row.group) || (!row.when.empty() && !conditions.contains(row.when))) continue;
    Symbols known = symbols;
    const std::int64_t calls = whole(row.calls, symbols);
    if (calls == 0) continue;
    known["calls"] = static_cast<double>(calls);
    Traffic& t = table[row.group][row.operation];
    t.calls += calls;
    t.bytes += whole(row.bytes, known);
  }
  return table;
}

}  // namespace hysparse::testing
