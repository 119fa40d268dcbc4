#include <algorithm>

#include <fmt/format.h>

#include "launch/bench.h"

namespace hysparse {

double BenchTimes::median() const {
  HYSPARSE_CHECK(!ms.empty());
  std::vector<double> sorted = ms;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
double BenchTimes::least() const {
  return *std::min_element(ms.begin(), ms.end());
}
double BenchTimes::most() const {
  return *std::max_element(ms.begin(), ms.end());
}

std::string bench_table(const BenchResult& result) {
  std::size_t width = 8;
  for (const BenchRow& row : result.rows) width = std::max(width, row.name.size());
  std::string text = result.title + "\n";
  for (const BenchRow& row : result.rows) {
    const double ms = row.times.median();
    text += fmt::format("{:<{}}  {:>10.3f} ms  ({:.3f} to {:.3f})", row.name, width, ms, row.times.least(),
                        row.times.most());
    if (row.flops > 0) text += fmt::format("  {:>8.2f} TFLOPS", row.flops / ms * 1e-9);
    if (row.bytes > 0) text += fmt::format("  {:>8.2f} GB/s", row.bytes / ms * 1e-6);
    for (const auto& [name, value] : row.extra.items()) text += fmt::format("  {} {}", name, value.dump());
    text += "\n";
  }
  return text;
}

nlohmann::json bench_json(const BenchResult& result) {
  nlohmann::json json = result.extra;
  json["title"] = result.title;
  json["rows"] = nlohmann::json::array();
  for (const BenchRow& row : result.rows) {
    const double ms = row.times.median();
    nlohmann::json r = row.extra;
    r["name"] = row.name;
    r["ms"] = ms;
    r["ms_least"] = row.times.least();
    r["ms_most"] = row.times.most();
    r["runs"] = row.times.ms.size();
    if (row.flops > 0) r["tflops"] = row.flops / ms * 1e-9;
    if (row.bytes > 0) r["gb_per_s"] = row.bytes / ms * 1e-6;
    json["rows"].push_back(std::move(r));
  }
  return json;
}

}  // namespace hysparse
