/// Training runs that a fault strikes at a random moment. A round: start a run on one of the layouts, strike,
/// see how it ends, and that nothing is lost: the same command, given again, ends with the state of a run that
/// nothing has struck, bit for bit.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/random.h"
#include "tests/launch/program.h"

namespace hysparse::testing {

struct FaultLayout {
  const char* name;
  int ranks;
  std::vector<std::string> overrides;
};

/// How a run that was struck has ended.
struct Ending {
  int status = -1;             ///< as ProgramResult; -1: it had to be killed
  double seconds = 0;          ///< from the fault until the last of its processes was gone
  std::string output, errors;  ///< stdout, stderr with all that mpirun says
};

/// However a run ends, it does so within this many seconds (after the timeout, when it hangs).
constexpr double seconds_to_end = 10;

class Faults : public ::testing::Test {
 protected:
  struct Round {
    int number = 0;
    const FaultLayout* layout = nullptr;
    std::string run;  ///< its directory
    std::string log;  ///< of the run that is struck
  };

  void SetUp() override;

  /// HYSPARSE_FAULT_ROUNDS, 2 when it is not set.
  static int rounds();
  /// The layouts come in turn, two rounds of each, beginning with number `first`.
  Round round(int number, int first) const;
  /// A number below `limit`: others with --gtest_random_seed=N.
  std::int64_t draw(std::int64_t limit);
  int draw_rank(const Round& round) { return static_cast<int>(draw(round.layout->ranks)); }

  /// Overrides of all runs of this test.
  void train_with(std::vector<std::string> overrides) { common_ = std::move(overrides); }
  std::vector<std::string> command(const FaultLayout& layout, const std::string& run,
                                   const std::vector<std::string>& overrides) const;
  /// The directory of a run of the layout that nothing strikes, of at least so many steps: made when it is
  /// first asked for, or when a busy machine or a slow end of a run asks for more. Keeps the checkpoints of all
  /// multiples of save_every.
  const std::string& unbroken(const FaultLayout& layout, std::int64_t steps = unbroken_steps,
                              const std::vector<std::string>& environment = {});

  /// Waits for a random step and then a little, in one of three rounds for a save; false when the run has
  /// ended.
  bool wait_for_moment(BackgroundProgram& program, const Round& round);
  /// Waits until the run and all its processes are gone, and judges the time that this took since `fault`.
  Ending wait_for_end(BackgroundProgram& program, const Round& round,
                      std::chrono::steady_clock::time_point fault, double seconds_allowed = seconds_to_end);
  /// Every checkpoint is whole, none that should be there is missing, and going on from the latest on the same
  /// layout leads where the unbroken run is. Removes the run.
  void expect_nothing_lost(const Round& round);

  /// Process ids by rank.
  static std::vector<int> ranks_of(const BackgroundProgram& program);
  /// Processes whose command line names the directory: a run's mpirun and ranks.
  static std::vector<int> processes_of(const std::string& run);

  static constexpr std::int64_t save_every = 4, unbroken_steps = 32, last_fault_step = 15;

  WorkDirectory directory_;
  std::string config_;

 private:
  std::vector<std::string> common_;
  struct Unbroken {
    std::string run;
    std::int64_t steps = 0;
  };
  std::map<std::string, Unbroken> unbroken_;  // by layout
  CounterRandom random_{1911 + static_cast<std::uint64_t>(GTEST_FLAG_GET(random_seed)), "faults"};
  std::uint64_t drawn_ = 0;
};

}  // namespace hysparse::testing
