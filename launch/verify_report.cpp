#include "launch/verify_report.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace hysparse {
namespace {

using Json = nlohmann::json;

constexpr const char* row_format = "{:<{}}  {:>5}  {:>7}  {:>9}  {:>8}{}  {:>7}  {:<6}  {}\n";

std::string figure(double difference) {
  return difference == 0 ? "0" : fmt::format("{:.1e}", difference);
}

Json traffic_json(const TrafficTable& traffic) {
  Json json = Json::object();
  for (const auto& [group, operations] : traffic) {
    for (const auto& [operation, t] : operations)
      json[group][operation] = {{"calls", t.calls}, {"bytes", t.bytes}};
  }
  return json;
}

Json layout_json(const VerifyOutcome& o) {
  const MeshConfig& mesh = o.layout.mesh;
  static constexpr const char* recomputes[] = {"none", "selective", "layer"};
  Json json{{"name", o.layout.name()},
            {"ranks", o.layout.world()},
            {"tp", mesh.tp},
            {"sequence_parallel", o.layout.sequence_parallel},
            {"pp", mesh.pp},
            {"schedule", o.layout.interleaved() ? "interleaved" : "1f1b"},
            {"virtual_stages", o.layout.virtual_stages},
            {"dp", o.layout.dp},
            {"ep", mesh.ep},
            {"etp", mesh.etp},
            {"recompute", recomputes[static_cast<int>(o.layout.recompute)]},
            {"seconds", o.seconds},
            {"passed", o.comparison.passed},
            {"problems", o.comparison.problems}};
  if (!o.finished) return json;
  const VerifyComparison& c = o.comparison;
  json["loss"] = c.loss;
  json["grad_norm"] = c.grad_norm;
  json["later_steps"] = c.later;
  if (c.flips.choices > 0) {
    json["flips"] = {
        {"choices", c.flips.choices}, {"flips", c.flips.flips}, {"largest_margin", c.flips.largest_margin}};
  }
  json["gradient"] = {{"difference", c.worst.difference}, {"parameter", c.worst.name}};
  json["traffic"] = traffic_json(o.traffic);
  return json;
}

}  // namespace

VerifyTable::VerifyTable(const std::vector<VerifyLayout>& layouts, const VerifyTolerances& tolerances)
    : width_(std::string("layout").size()), later_(!tolerances.all_steps) {
  for (const VerifyLayout& layout : layouts) width_ = std::max(width_, layout.name().size());
}

std::string VerifyTable::header() const {
  return fmt::format(row_format, "layout", width_, "ranks", "loss", "grad_norm", "gradient",
                     later_ ? fmt::format("  {:<8}  {:>5}", "later", "flips") : "", "seconds", "result",
                     "parameter");
}

std::string VerifyTable::row(const VerifyOutcome& outcome) const {
  const VerifyComparison& c = outcome.comparison;
  const auto shown = [&](double difference) { return outcome.finished ? figure(difference) : "-"; };
  std::string text = fmt::format(row_format, outcome.layout.name(), width_, outcome.layout.world(),
                                 shown(c.loss), shown(c.grad_norm), shown(c.worst.difference),
                                 later_ ? fmt::format("  {:<8}  {:>5}", shown(c.later), c.flips.flips) : "",
                                 fmt::format("{:.1f}", outcome.seconds), c.passed ? "pass" : "FAIL",
                                 outcome.finished ? c.worst.name : "-");
  for (const std::string& problem : c.problems) text += fmt::format("    {}\n", problem);
  return text;
}

std::string verify_summary(const std::vector<VerifyOutcome>& outcomes) {
  std::vector<std::string> failed;
  for (const VerifyOutcome& o : outcomes) {
    if (!o.comparison.passed) failed.push_back(o.layout.name());
  }
  if (failed.empty())
    return fmt::format("{} layout{}: equal to one rank", outcomes.size(), outcomes.size() == 1 ? "" : "s");
  return fmt::format("{} of {} layouts FAIL: {}", failed.size(), outcomes.size(), fmt::join(failed, "; "));
}

std::string verify_json(const RunConfig& config, const std::string& path, const VerifyResult& reference,
                        const VerifyTolerances& tolerances, const std::vector<VerifyOutcome>& outcomes) {
  Json json{{"config", path},
            {"dtype", config.dtype() == DType::f64 ? "fp64" : "fp32"},
            {"steps", reference.steps.size()},
            {"tolerances",
             {{"loss_and_grad_norm", tolerances.steps},
              {"gradients", tolerances.gradients},
              {"all_steps", tolerances.all_steps},
              {"margin", tolerances.margin}}},
            {"layouts", Json::array()}};
  for (const VerifyStep& step : reference.steps)
    json["reference"]["steps"].push_back({{"loss", step.loss}, {"grad_norm", step.grad_norm}});
  bool passed = true;
  for (const VerifyOutcome& o : outcomes) {
    json["layouts"].push_back(layout_json(o));
    passed = passed && o.comparison.passed;
  }
  json["passed"] = passed;
  return json.dump(2);
}

}  // namespace hysparse
