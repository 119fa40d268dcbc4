#include "launch/run_log.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <unistd.h>

#include "checkpoint/file.h"
#include "launch/config.h"
#include "launch/user_input.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

/// Throws Error for everything in the directory that the run could not write to.
void check_contents(const fs::path& directory) {
  std::vector<std::string> problems;
  std::error_code error;
  for (const char* name : {"config.yaml", "metrics.jsonl", "log.txt"}) {
    const fs::path path = directory / name;
    if (!fs::exists(path, error)) continue;
    if (!fs::is_regular_file(path, error)) {
      problems.push_back(fmt::format("run.dir: {}: is in the way: not a regular file", path.string()));
    } else if (::access(path.c_str(), W_OK) != 0) {
      problems.push_back(
          fmt::format("run.dir: {}: cannot be written to: {}", path.string(), std::strerror(errno)));
    }
  }
  for (const char* name : {"checkpoints", "tb"}) {
    const fs::path path = directory / name;
    if (!fs::exists(path, error)) continue;
    if (!fs::is_directory(path, error)) {
      problems.push_back(fmt::format("run.dir: {}: is in the way: not a directory", path.string()));
    } else if (const std::string reason = why_not_writable(path); !reason.empty()) {
      problems.push_back(fmt::format("run.dir: {}: cannot be written to: {}", path.string(), reason));
    }
  }
  if (!problems.empty()) throw Error(problems);
}

/// Makes the directory, looks whether all that a run keeps there can be written, and writes config.yaml by
/// rename: the first thing a run changes on disk.
void prepare_directory(const RunConfig& config) {
  const fs::path directory = config.run.dir;
  make_writable_directory("run.dir", config.run.dir);
  check_contents(directory);
  write_file_atomically((directory / "config.yaml").string(), config_yaml(config));
}

std::string counts_text(const ParameterCounts& counts) {
  return fmt::format("{} parameters, {} active per token, {} in experts", counts.total, counts.active,
                     counts.experts);
}

}  // namespace

RunLog::RunLog(const RunConfig& config, const Mesh& mesh, int threads, double peak_flops,
               const TrainingStart& start)
    : total_steps_(config.train.steps),
      flops_per_token_(model_flops_per_token(config.model, config.train.seq_len)),
      peak_flops_(peak_flops),
      last_tokens_(start.progress.tokens) {
  const bool done = start.progress.step >= total_steps_;
  Progress::Options console{.total_steps = config.train.steps};
  if (!done) {  // a run that is done is left as it is
    prepare_directory(config);
    const fs::path directory = config.run.dir;
    metrics_ = std::make_unique<MetricsWriter>((directory / "metrics.jsonl").string(), start.progress.step);
    events_ = std::make_unique<EventWriter>((directory / "tb").string(), start.progress.step);
    console.log_path = (directory / "log.txt").string();
  }
  progress_ = std::make_unique<Progress>(std::move(console));
  for (const std::string& warning : start.warnings) progress_->message("warning: " + warning);
  progress_->message(fmt::format("{}, {} threads a rank", mesh.str(), threads));
  progress_->message(fmt::format("model: {} layers, {}", config.model.num_layers(),
                                 counts_text(count_parameters(config.model))));
  progress_->message(fmt::format("starts from {}", start.from));
  progress_->message(fmt::format(
      "mfu = tokens/s x {:.4g} model FLOPs per token (6 x active parameters + 12 x heads x head_dim x "
      "visible keys per layer) / {:.4g} FLOP/s ({})",
      flops_per_token_, peak_flops_,
      config.train.device == RunConfig::DeviceChoice::cuda ? "dense bf16 of the data sheet; 0: not known"
                                                           : "f32 matrix product measured at start"));
  if (done) {
    progress_->message(fmt::format("already done: {} of {} steps; raise train.steps to go on",
                                   start.progress.step, total_steps_));
  }
}

void RunLog::step(const StepReport& report) {
  const auto tokens = static_cast<double>(report.tokens - last_tokens_);
  last_tokens_ = report.tokens;
  StepMetrics m;
  m.step = report.step;
  m.loss = report.loss;
  m.lr = report.lr;
  m.grad_norm = report.grad_norm;
  m.tokens = report.tokens;
  m.tokens_per_s = tokens / report.seconds;
  m.step_ms = report.seconds * 1e3;
  m.tflops = m.tokens_per_s * flops_per_token_ / 1e12;
  if (peak_flops_ > 0) m.mfu = m.tokens_per_s * flops_per_token_ / peak_flops_;
  m.memory_bytes = report.memory_bytes;
  m.memory = memory_ = report.memory;
  m.skipped = report.skipped;
  for (const ExpertBalance::LayerLoad& load : report.load.layers)
    m.moe_load.push_back({load.layer, load.max_over_mean});
  m.moe_dropped = report.load.dropped;
  m.valid_loss = report.valid_loss;
  metrics_->write(m);
  events_->write(m.step, step_scalars(m));
  progress_->step(m);
}

void RunLog::finish(bool stopped) {
  if (memory_.total() > 0) progress_->message("memory at its peak on rank 0: " + memory_.str());
  if (stopped) progress_->message("stopped by a signal; the checkpoint is saved, the same command goes on");
}

}  // namespace hysparse
