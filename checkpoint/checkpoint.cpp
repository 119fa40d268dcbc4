#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "checkpoint/manifest.h"
#include "checkpoint/step_directories.h"
#include "core/error.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view prefix = "step-";
constexpr std::int64_t max_latest_bytes = 64;

/// Why a step directory is not a complete checkpoint; empty when it is.
std::string fault_of(const std::string& directory) {
  try {
    check_shard_sizes(read_manifest(directory), directory);
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

/// The step that `latest` names. Throws Error when there is no such file or it names none.
std::int64_t read_latest(const std::string& checkpoints) {
  const std::string path = latest_path(checkpoints);
  const std::string text = read_text_file(path, max_latest_bytes);
  const auto step = step_of_name(std::string_view(text).substr(0, text.find('\n')));
  if (!step) throw_error("{}: '{}' is not the name of a step", path, printable(text));
  return *step;
}

}  // namespace

std::string checkpoints_directory(const std::string& run_directory) {
  return run_directory + "/checkpoints";
}

std::string step_name(std::int64_t step) {
  return fmt::format("{}{:06}", prefix, step);
}

std::optional<std::int64_t> step_of_name(std::string_view name) {
  if (!name.starts_with(prefix)) return std::nullopt;
  const std::string_view digits = name.substr(prefix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || step < 0 || step_name(step) != name) return std::nullopt;
  return step;
}

std::string latest_path(const std::string& checkpoints) {
  return checkpoints + "/latest";
}

std::vector<std::int64_t> list_steps(const std::string& checkpoints) {
  std::vector<std::int64_t> steps;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints, ignored)) {
    std::string name = entry.path().filename();
    if (name.ends_with(replaced_suffix)) name.resize(name.size() - replaced_suffix.size());
    if (const auto step = step_of_name(name)) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  steps.erase(std::unique(steps.begin(), steps.end()), steps.end());
  return steps;
}

std::string step_directory(const std::string& checkpoints, std::int64_t step) {
  const std::string directory = fmt::format("{}/{}", checkpoints, step_name(step));
  std::error_code ignored;
  // A save killed while it replaced this step: the old one is whole under its other name.
  if (!fs::exists(directory, ignored) && fs::exists(directory + replaced_suffix, ignored)) {
    return directory + replaced_suffix;
  }
  return directory;
}

std::optional<std::string> find_latest(const std::string& run_directory, std::vector<std::string>* warnings,
                                       const KnownDamage& damaged) {
  const std::string checkpoints = checkpoints_directory(run_directory);
  const auto fault_in = [&](const std::string& directory) {
    const auto known = damaged.find(directory);
    return known != damaged.end() ? known->second : fault_of(directory);
  };
  std::vector<std::string> faults;
  std::int64_t named = -1;
  try {
    named = read_latest(checkpoints);
    const std::string directory = step_directory(checkpoints, named);
    std::string fault = fault_in(directory);
    if (fault.empty()) return directory;
    faults.push_back(std::move(fault));
  } catch (const Error& error) {
    faults.push_back(error.what());
  }

  std::vector<std::int64_t> steps = list_steps(checkpoints);
  std::erase_if(steps,
                [&](std::int64_t step) { return !is_step_directory(step_directory(checkpoints, step)); });
  std::error_code ignored;
  if (steps.empty() && !fs::exists(latest_path(checkpoints), ignored)) return std::nullopt;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    if (*step == named) continue;
    const std::string directory = step_directory(checkpoints, *step);
    std::string fault = fault_in(directory);
    if (fault.empty()) {
      for (std::string& earlier : faults) warnings->push_back(std::move(earlier));
      warnings->push_back(fmt::format("using {}, the newest complete checkpoint", directory));
      return directory;
    }
    faults.push_back(std::move(fault));
  }
  faults.back() +=
      fmt::format("; no complete checkpoint is left in {}: repair it, or remove it to begin anew", checkpoints);
  throw Error(std::move(faults));
}

std::vector<StepState> list_checkpoints(const std::string& run_directory) {
  const std::string checkpoints = checkpoints_directory(run_directory);
  std::int64_t named = -1;
  try {
    named = read_latest(checkpoints);
  } catch (const Error&) {
    // Then none is.
  }
  std::vector<StepState> states;
  for (const std::int64_t step : list_steps(checkpoints)) {
    const std::string directory = step_directory(checkpoints, step);
    states.push_back({step, directory, step == named, fault_of(directory)});
  }
  return states;
}

bool is_step_directory(const std::string& path) {
  std::error_code ignored;
  return fs::exists(fmt::format("{}/{}", path, manifest_file), ignored);
}

std::string resolve_checkpoint(const std::string& path, std::vector<std::string>* warnings) {
  if (is_step_directory(path)) return path;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) throw_error("{}: no such directory", path);
  const auto latest = find_latest(path, warnings);
  if (!latest) throw_error("{}: neither a run directory with a checkpoint nor a step directory", path);
  return *latest;
}

void remove_leftovers(const std::string& run_directory) {
  const std::string checkpoints = checkpoints_directory(run_directory);
  std::error_code error;
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints, error)) {
    names.push_back(entry.path().filename());
  }
  for (const std::string& name : names) {
    const std::string path = fmt::format("{}/{}", checkpoints, name);
    const std::size_t dot = name.find('.');
    const std::string stem = name.substr(0, dot), suffix = dot == std::string::npos ? "" : name.substr(dot);
    const bool is_step = step_of_name(stem).has_value();
    if (is_step && suffix == replaced_suffix && !fs::exists(fmt::format("{}/{}", checkpoints, stem), error)) {
      rename_durably(path, fmt::format("{}/{}", checkpoints, stem));
    } else if ((is_step &&
                (suffix == partial_suffix || suffix == removed_suffix || suffix == replaced_suffix)) ||
               name == "latest.tmp") {
      fs::remove_all(path, error);
    }
  }
}

void remove_step(const std::string& directory) {
  std::error_code ignored;
  std::string doomed = directory;
  if (!directory.ends_with(replaced_suffix)) {
    doomed += removed_suffix;  // a half-removed step must not look like a damaged one
    fs::rename(directory, doomed, ignored);
  }
  fs::remove_all(doomed, ignored);
}

void publish_step(const std::string& checkpoints, std::int64_t step, int keep) {
  const std::string directory = fmt::format("{}/{}", checkpoints, step_name(step));
  std::error_code ignored;
  const bool replaces = fs::exists(directory, ignored);
  if (replaces) rename_durably(directory, directory + replaced_suffix);
  rename_durably(directory + partial_suffix, directory);
  write_file_atomically(latest_path(checkpoints), step_name(step) + "\n");
  if (replaces) remove_step(directory + replaced_suffix);

  // Those that are not complete do not count; behind the oldest one kept they go, too.
  std::vector<std::int64_t> older = list_steps(checkpoints);
  std::erase_if(older, [&](std::int64_t other) { return other >= step; });
  int kept = 1;
  for (auto other = older.rbegin(); other != older.rend(); ++other) {
    const std::string old = step_directory(checkpoints, *other);
    if (kept == keep) {
      remove_step(old);
    } else if (fault_of(old).empty()) {
      ++kept;
    }
  }
}

}  // namespace hysparse
