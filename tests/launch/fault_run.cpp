#include "tests/launch/fault_run.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fmt/format.h>
#include <signal.h>

#include "checkpoint/checkpoint.h"
#include "tests/launch/run_files.h"

namespace hysparse::testing {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

const std::array layouts{
    FaultLayout{"dp4-ep2", 4, {"parallel.ep=2"}},
    FaultLayout{"dp2-tp2-sp", 4, {"parallel.tp=2", "parallel.sequence_parallel=true"}},
    FaultLayout{"pp3", 3, {"parallel.pp=3"}},
    FaultLayout{"dp2-pp2-interleaved",
                4,
                {"parallel.pp=2", "parallel.schedule=interleaved", "parallel.virtual_stages=2"}},
    FaultLayout{"dp4-ep2-etp2", 4, {"parallel.ep=2", "parallel.etp=2"}},
};

/// The value of a variable in a process's environment; empty when there is none.
std::string variable_of(int process, const std::string& name) {
  std::ifstream in(fmt::format("/proc/{}/environ", process), std::ios::binary);
  for (std::string entry; std::getline(in, entry, '\0');)
    if (entry.starts_with(name + "=")) return entry.substr(name.size() + 1);
  return "";
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

void Faults::SetUp() {
  prepare_data(directory_, 24000);
  config_ = write_small_config(directory_);
}

int Faults::rounds() {
  const char* value = std::getenv("HYSPARSE_FAULT_ROUNDS");
  return value == nullptr ? 2 : std::atoi(value);
}

Faults::Round Faults::round(int number, int first) const {
  const auto turn = static_cast<std::size_t>(first + number / 2) % layouts.size();
  const std::string run = directory_ / fmt::format("round-{}", number);
  return {number, &layouts[turn], run, run + ".log"};
}

std::int64_t Faults::draw(std::int64_t limit) {
  return static_cast<std::int64_t>(random_.below(drawn_++, static_cast<std::uint64_t>(limit)));
}

std::vector<std::string> Faults::command(const FaultLayout& layout, const std::string& run,
                                         const std::vector<std::string>& overrides) const {
  // Four blocks of a full layer and its follower, for up to four chunks; a constant rate, so that a run's steps
  // do not depend on how many there will be.
  std::vector<std::string> words{"train",
                                 config_,
                                 "run.dir=" + run,
                                 "model.num_layers=8",
                                 "model.hybrid_ratio=1:1",
                                 "train.global_batch_size=4",
                                 "optim.schedule=constant",
                                 fmt::format("train.eval_every={}", save_every),
                                 fmt::format("checkpoint.every={}", save_every)};
  for (const auto* part : {&common_, &layout.overrides, &overrides})
    words.insert(words.end(), part->begin(), part->end());
  return words;
}

const std::string& Faults::unbroken(const FaultLayout& layout, std::int64_t steps,
                                    const std::vector<std::string>& environment) {
  Unbroken& made = unbroken_[layout.name];
  if (made.steps >= steps) return made.run;
  made = {directory_ / fmt::format("unbroken-{}-{}", layout.name, steps), steps};
  const ProgramResult result = run_hysparse(
      layout.ranks, command(layout, made.run, {fmt::format("train.steps={}", steps), "checkpoint.keep=1000"}),
      environment);
  EXPECT_EQ(result.status, 0) << layout.name << ": " << result.errors;
  return made.run;
}

bool Faults::wait_for_moment(BackgroundProgram& program, const Round& round) {
  const std::int64_t step = 1 + draw(last_fault_step);
  if (!wait_until(program, [&] { return steps_written(round.run) >= step; })) return false;
  if (draw(3) == 0 && !wait_until(program, [&] { return saving(round.run); })) return false;
  std::this_thread::sleep_for(std::chrono::microseconds(draw(20000)));
  return program.running();
}

Ending Faults::wait_for_end(BackgroundProgram& program, const Round& round, Clock::time_point fault,
                            double seconds_allowed) {
  Ending ending;
  while (program.running() || !processes_of(round.run).empty()) {
    if (seconds_since(fault) > seconds_allowed + seconds_to_end) {
      const std::vector<int> left = processes_of(round.run);
      ADD_FAILURE() << "still there: processes " << fmt::format("{}", fmt::join(left, ", "));
      for (const int process : left) kill(process, SIGKILL);
      break;
    }
    std::this_thread::sleep_for(milliseconds(5));
  }
  ending.seconds = seconds_since(fault);
  ending.status = program.wait();
  ending.output = read_file(round.log);
  ending.errors = read_file(round.log + ".err");
  EXPECT_LE(ending.seconds, seconds_allowed);
  fmt::print("round {}: {}, {} steps, ended after {:.1f} s\n", round.number, round.layout->name,
             steps_written(round.run), ending.seconds);
  std::fflush(stdout);
  return ending;
}

void Faults::expect_nothing_lost(const Round& round) {
  const std::int64_t written = steps_written(round.run), latest = latest_step(round.run);
  // A save ends before the next one begins, and that one begins before the metrics of the step behind it.
  EXPECT_GE(latest, (written - 1) / save_every * save_every - save_every);
  const std::int64_t target = (written + 2 + save_every - 1) / save_every * save_every;

  const ProgramResult resumed = run_hysparse(
      round.layout->ranks,
      command(*round.layout, round.run, {fmt::format("train.steps={}", target), "checkpoint.keep=2"}));
  ASSERT_EQ(resumed.status, 0) << resumed.errors;
  const std::string from =
      latest == 0 ? "starts from initial values" : fmt::format("starts from step {} of", latest);
  EXPECT_EQ(count(resumed.output, from), 1) << from << ": " << resumed.output;
  EXPECT_EQ(latest_step(round.run), target);

  const std::string& expected = unbroken(*round.layout, std::max(target, unbroken_steps));
  std::vector<nlohmann::json> steps = read_metrics(expected);
  ASSERT_GE(steps.size(), static_cast<std::size_t>(target));
  steps.resize(static_cast<std::size_t>(target));
  expect_same_steps(read_metrics(round.run), steps);
  expect_same_state(checkpoints_directory(round.run) + "/" + step_name(target),
                    checkpoints_directory(expected) + "/" + step_name(target));
}

std::vector<int> Faults::ranks_of(const BackgroundProgram& program) {
  std::map<int, int> processes;
  for (const int process : program.rank_processes()) {
    const std::string rank = variable_of(process, "OMPI_COMM_WORLD_RANK");
    if (!rank.empty()) processes[std::stoi(rank)] = process;
  }
  std::vector<int> by_rank;
  for (const auto& [rank, process] : processes) by_rank.push_back(process);
  return by_rank;
}

std::vector<int> Faults::processes_of(const std::string& run) {
  std::vector<int> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string id = entry.path().filename().string();
    if (id.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string words = read_file((entry.path() / "cmdline").string());
    const std::string word = "run.dir=" + run;
    // Whole: a run's name may begin with that of another one.
    if (words.find(word + '\0') != std::string::npos) found.push_back(std::stoi(id));
  }
  return found;
}

}  // namespace hysparse::testing
