/// What a run has written so far, looked at from outside, and whether two runs are the same.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/launch/program.h"

namespace hysparse::testing {

/// A file's bytes; none when it is not there.
std::string read_file(const std::string& path);
/// How often `part` stands in `text`.
int count(const std::string& text, const std::string& part);

/// Complete lines of the metrics so far.
std::int64_t steps_written(const std::string& run_directory);
/// Whether a save is under way.
bool saving(const std::string& run_directory);
/// The step to resume from, 0 when there is no checkpoint. Every checkpoint there must be whole, and finding
/// the latest must need no warning.
std::int64_t latest_step(const std::string& run_directory);

/// Polls until the condition holds; false when the program ended first.
bool wait_until(BackgroundProgram& program, const std::function<bool()>& condition);

/// The parts of a step's metrics that are the same in every run of one layout, for all steps from 1 on.
void expect_same_steps(const std::vector<nlohmann::json>& run, const std::vector<nlohmann::json>& expected);
/// Every tensor of two checkpoints has the same bits, and they stand at the same place in the data.
void expect_same_state(const std::string& step_directory, const std::string& expected);

}  // namespace hysparse::testing
