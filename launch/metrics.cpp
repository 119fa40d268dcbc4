#include "launch/metrics.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include <nlohmann/json.hpp>

#include "checkpoint/file.h"
#include "core/error.h"

namespace hysparse {
namespace {

std::string json_number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "null";
}
std::string json_number(std::int64_t value) {
  return fmt::format("{}", value);
}
std::string json_number(const std::optional<double>& value) {
  return value ? json_number(*value) : "null";
}

/// The step of a line, -1 when the line is no metrics.
std::int64_t step_of(std::string_view line) {
  const auto object = nlohmann::json::parse(line, nullptr, false);
  if (!object.is_object()) return -1;
  const auto step = object.find("step");
  return step != object.end() && step->is_number_integer() ? step->get<std::int64_t>() : -1;
}

/// The lines of `text` that survive a resume at `step`, each with its newline.
std::string surviving_lines(const std::string& text, std::int64_t step) {
  std::string kept;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn: the newline is written with its line
    const std::string_view line(text.data() + begin, end - begin);
    const std::int64_t at = step_of(line);
    if (at >= 0 && at <= step) kept.append(line).push_back('\n');
    begin = end + 1;
  }
  return kept;
}

}  // namespace

namespace {

/// Those that are not 0, by name.
std::string memory_object(const MemoryTable& memory) {
  std::vector<std::string> members;
  for (std::size_t i = 0; i < memory_purposes; ++i) {
    if (memory.bytes[i] == 0) continue;
    members.push_back(fmt::format("\"{}\":{}", memory_purpose_name(static_cast<MemoryPurpose>(i)),
                                  json_number(memory.bytes[i])));
  }
  return fmt::format("{{{}}}", fmt::join(members, ","));
}

}  // namespace

std::string metrics_line(const StepMetrics& m) {
  std::string line = fmt::format(
      R"({{"step":{},"loss":{},"lr":{},"grad_norm":{},"tokens":{},"tokens_per_s":{},"step_ms":{},"tflops":{},"mfu":{},)"
      R"("memory_bytes":{})",
      json_number(m.step), json_number(m.loss), json_number(m.lr), json_number(m.grad_norm),
      json_number(m.tokens), json_number(m.tokens_per_s), json_number(m.step_ms), json_number(m.tflops),
      json_number(m.mfu), json_number(m.memory_bytes));
  if (m.memory.total() > 0) line += fmt::format(R"(,"memory":{})", memory_object(m.memory));
  if (!m.moe_load.empty()) {
    std::vector<std::string> loads;
    for (const auto& load : m.moe_load)
      loads.push_back(fmt::format("\"{}\":{}", load.layer, json_number(load.max_over_mean)));
    line += fmt::format(R"(,"moe":{{"load_max_over_mean":{{{}}},"dropped":{}}})", fmt::join(loads, ","),
                        json_number(m.moe_dropped));
  }
  if (m.skipped) line += R"(,"skipped":true)";
  if (m.all_to_all_ms) line += fmt::format(R"(,"all_to_all_ms":{})", json_number(*m.all_to_all_ms));
  if (m.pipeline_bubble) line += fmt::format(R"(,"pipeline_bubble":{})", json_number(*m.pipeline_bubble));
  if (m.valid_loss) line += fmt::format(R"(,"valid_loss":{})", json_number(*m.valid_loss));
  return line + "}";
}

void trim_metrics(const std::string& path, std::int64_t step) {
  std::error_code unused;
  if (!std::filesystem::exists(path, unused)) return;
  const std::string text = read_text_file(path, std::numeric_limits<std::int64_t>::max());
  const std::string kept = surviving_lines(text, step);
  if (kept != text) write_file_atomically(path, kept);
}

MetricsWriter::MetricsWriter(const std::string& path, std::int64_t resume_step)
    : file_((trim_metrics(path, resume_step), path)) {}

void MetricsWriter::write(const StepMetrics& metrics) {
  file_.write(metrics_line(metrics) + "\n");
}

}  // namespace hysparse
