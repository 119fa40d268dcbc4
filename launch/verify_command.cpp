// `hysparse verify`: layouts against one rank.
#include <cstdio>
#include <filesystem>

#include <unistd.h>

#include "launch/commands.h"
#include "launch/config.h"
#include "launch/config_tree.h"
#include "launch/scratch_directory.h"
#include "launch/stop_signal.h"
#include "launch/verify_process.h"
#include "launch/verify_report.h"
#include "launch/verify_tokens.h"

namespace hysparse {
namespace {

/// Does the config, or an override, name its training data?
bool names_data(const VerifyOptions& options) {
  std::vector<std::string> problems;
  YamlPointer tree = read_config_files(options.config, problems);
  for (const std::string& o : options.overrides) {
    if (tree) tree = apply_override(tree, o, problems);
  }
  const YamlEntry* data = tree ? tree->find("data") : nullptr;
  return data != nullptr && data->value->find("train") != nullptr;
}

/// One line on stderr that says what runs; drawn over on a terminal.
class Status {
 public:
  void show(const std::string& text) {
    fmt::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", text, terminal_ ? "" : "\n");
    std::fflush(stderr);
  }
  void clear() {
    if (!terminal_) return;
    fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
  }

 private:
  bool terminal_ = isatty(STDERR_FILENO) != 0;
};

class Verifier {
 public:
  explicit Verifier(const VerifyOptions& options) : options_(options) {
    // Of one rank, whatever the config says of layouts, which are set for each.
    const VerifyLayout one;
    overrides_ = options.overrides;
    add({fmt::format("train.steps={}", options.steps), "train.eval_every=0", "checkpoint.every=0"});
    add(one.overrides());
    if (!names_data(options)) make_tokens();
    config_ = load_config(options.config, overrides_, 1);
    if (config_.dtype() == DType::bf16)
      throw_error("train.dtype: bf16: rounding hides what verify looks for; must be fp32, or fp64 on the CPU");
    layouts_ = chosen_layouts(options.layouts, config_, options.np);
  }

  int run() {
    const VerifyTolerances tolerances =
        verify_tolerances(config_.dtype(), {cuda() ? DeviceType::cuda : DeviceType::cpu, 0});
    const VerifyTable table(layouts_, tolerances);
    const VerifyResult reference = run_reference();
    if (!options_.json) print(table.header());
    std::vector<VerifyOutcome> outcomes;
    bool passed = true;
    for (const VerifyLayout& layout : layouts_) {
      status_.show(fmt::format("[{}/{}] {}", outcomes.size() + 1, layouts_.size(), layout.name()));
      outcomes.push_back(run_layout(layout, reference, tolerances));
      passed = passed && outcomes.back().comparison.passed;
      status_.clear();
      if (!options_.json) print(table.row(outcomes.back()));
    }
    print(options_.json ? verify_json(config_, options_.config, reference, tolerances, outcomes) + "\n"
                        : verify_summary(outcomes) + "\n");
    return passed ? 0 : 1;
  }

 private:
  bool cuda() const { return config_.train.device == RunConfig::DeviceChoice::cuda; }

  static void print(const std::string& text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  }

  void add(const std::vector<std::string>& overrides) {
    overrides_.insert(overrides_.end(), overrides.begin(), overrides.end());
  }

  /// As many tokens as the steps read.
  void make_tokens() {
    std::vector<std::string> overrides = overrides_;
    overrides.push_back("data.train=" + directory_ / "tokens.h5");
    const RunConfig config = load_config(options_.config, overrides, 1);
    write_random_tokens(directory_ / "tokens.h5", config.model.vocab_size,
                        options_.steps * config.train.global_batch_size * config.train.seq_len + 1);
    overrides_ = overrides;
  }

  /// In fp64 rounding flips nothing, and every layout makes its own choices; in fp32 all make those of one
  /// rank.
  bool replays() const { return config_.dtype() != DType::f64; }

  ProcessResult start(const VerifyLayout& layout, const std::string& output) {
    const std::string reference = directory_ / "reference";
    std::vector<std::string> arguments = {"verify-layout", options_.config, "--output", output};
    if (replays() && output == reference) arguments.push_back("--record-choices");
    if (replays() && output != reference) arguments.push_back("--replay-choices=" + reference);
    // A collective that waits in vain says so before the time is over.
    arguments.push_back(fmt::format("train.collective_timeout_s={}", options_.timeout_s / 2));
    arguments.insert(arguments.end(), overrides_.begin(), overrides_.end());
    for (const std::string& o : layout.overrides()) arguments.push_back(o);
    return run_ranks(layout.world(), arguments, directory_ / "log", options_.timeout_s);
  }

  /// Why a run gave no result; empty when it did.
  std::vector<std::string> problems_of(const ProcessResult& process) const {
    if (process.status == 0 && !process.timed_out) return {};
    std::vector<std::string> problems = error_lines_of(process.output);
    problems.insert(problems.begin(), process.timed_out
                                          ? fmt::format("not done after {:g} s (--timeout)", options_.timeout_s)
                                          : fmt::format("exit status {}", process.status));
    return problems;
  }

  VerifyResult run_reference() {
    status_.show("one rank, the reference");
    const ProcessResult process = start(VerifyLayout{}, directory_ / "reference");
    status_.clear();
    const std::vector<std::string> problems = problems_of(process);
    if (process.status == 2 && !process.timed_out)
      throw Error(std::vector<std::string>(problems.begin() + 1, problems.end()));
    if (!problems.empty()) throw_failure("the run of one rank: {}", fmt::join(problems, "\n"));
    VerifyResult reference = read_result(directory_ / "reference");
    if (!options_.json) {
      print(fmt::format(
          "one rank: {} steps in {}, loss {:.6f} to {:.6f}, gradient norm {:.4f} to {:.4f}, {:.1f} s\n",
          reference.steps.size(), config_.dtype() == DType::f64 ? "fp64" : "fp32", reference.steps.front().loss,
          reference.steps.back().loss, reference.steps.front().grad_norm, reference.steps.back().grad_norm,
          process.seconds));
    }
    return reference;
  }

  VerifyOutcome run_layout(const VerifyLayout& layout, const VerifyResult& reference,
                           const VerifyTolerances& tolerances) {
    VerifyOutcome outcome{.layout = layout};
    const std::string output = directory_ / "layout";
    const ProcessResult process = start(layout, output);
    outcome.seconds = process.seconds;
    outcome.comparison.problems = problems_of(process);
    outcome.comparison.passed = outcome.comparison.problems.empty();
    if (outcome.comparison.passed) read(output, reference, tolerances, outcome);
    std::filesystem::remove_all(output);
    return outcome;
  }

  static void read(const std::string& output, const VerifyResult& reference, const VerifyTolerances& tolerances,
                   VerifyOutcome& outcome) {
    try {
      VerifyResult result = read_result(output);
      outcome.finished = true;
      outcome.comparison = compare_results(result, reference, tolerances);
      outcome.traffic = std::move(result.traffic);
    } catch (const Failure& e) {
      outcome.comparison.passed = false;
      outcome.comparison.problems.push_back(e.what());
    }
  }

  const VerifyOptions& options_;
  ScratchDirectory directory_{"hysparse-verify"};
  RunConfig config_;
  std::vector<std::string> overrides_;
  std::vector<VerifyLayout> layouts_;
  Status status_;
};

}  // namespace

int run_verify(Runtime& runtime, const VerifyOptions& options) {
  runtime.agree([&] {
    if (runtime.world() > 1 || started_by_mpirun())
      throw_error("verify starts mpirun itself, for each layout: run it without mpirun");
  });
  return Verifier(options).run();
}

}  // namespace hysparse
