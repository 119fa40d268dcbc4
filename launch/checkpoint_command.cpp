// `hysparse checkpoint`.
#include <chrono>
#include <cstdio>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "checkpoint/reader.h"
#include "core/memory.h"
#include "core/thread_pool.h"
#include "launch/commands.h"
#include "launch/loaded_model.h"

namespace hysparse {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

/// A step directory as it was given, or all of a run directory's.
std::vector<StepState> steps_of(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) throw_error("{}: no such directory", path);
  const auto step = step_of_name(fs::path(path + "/").parent_path().filename().string());
  if (step || is_step_directory(path)) return {{step.value_or(-1), path, false, ""}};
  std::vector<StepState> steps = list_checkpoints(path);
  if (steps.empty()) throw_error("{}: neither a run directory with a checkpoint nor a step directory", path);
  return steps;
}

struct Contents {
  std::int64_t bytes = 0, parameters = 0, elements = 0;
};

Contents contents_of(const Manifest& manifest) {
  Contents contents;
  for (const FileDigest& shard : manifest.shards) contents.bytes += shard.bytes;
  for (const auto& [name, tensor] : manifest.tensors) {
    if (name.starts_with("optim/")) continue;
    ++contents.parameters;
    contents.elements += tensor.global_shape.numel();
  }
  return contents;
}

std::string lines_of(const StepState& step, const Manifest& manifest) {
  const CheckpointInfo& info = manifest.info;
  const Contents contents = contents_of(manifest);
  std::vector<std::string> data, versions;
  for (const auto& [key, value] : info.data_state) data.push_back(printable(key) + " " + printable(value));
  for (const auto& [key, value] : info.versions) versions.push_back(printable(key) + " " + printable(value));
  return fmt::format(
      "{}{}\n  step {}, {} tokens seen, seed {}\n  layout: {}\n  {} parameters of {} elements, {} tensors with "
      "the optimizer's\n  {} in {} shard{}\n  data: {}\n  written by {}\n",
      step.directory, step.latest ? " (latest)" : "", info.step, info.tokens_seen, info.seed,
      printable(info.layout), contents.parameters, contents.elements, manifest.tensors.size(),
      bytes_text(contents.bytes), manifest.shards.size(), manifest.shards.size() == 1 ? "" : "s",
      fmt::join(data, ", "), fmt::join(versions, ", "));
}

Json json_of(const StepState& step, const Manifest& manifest) {
  const CheckpointInfo& info = manifest.info;
  const Contents contents = contents_of(manifest);
  Json json{{"directory", step.directory},
            {"latest", step.latest},
            {"complete", true},
            {"step", info.step},
            {"tokens_seen", info.tokens_seen},
            {"seed", info.seed},
            {"layout", info.layout},
            {"mesh", info.mesh},
            {"data_state", info.data_state},
            {"versions", info.versions},
            {"parameters", contents.parameters},
            {"elements", contents.elements},
            {"tensors", manifest.tensors.size()},
            {"bytes", contents.bytes},
            {"shards", Json::array()}};
  for (std::size_t i = 0; i < manifest.shards.size(); ++i)
    json["shards"].push_back({{"file", shard_name(static_cast<int>(i))}, {"bytes", manifest.shards[i].bytes}});
  return json;
}

std::string text_of(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

int show_info(const std::vector<StepState>& steps, bool as_json) {
  Json all = Json::array();
  std::string text;
  for (const StepState& step : steps) {
    try {
      if (!step.fault.empty()) throw DamagedCheckpoint(step.fault);
      const Manifest manifest = read_manifest(step.directory);
      check_shard_sizes(manifest, step.directory);
      all.push_back(json_of(step, manifest));
      text += lines_of(step, manifest);
    } catch (const DamagedCheckpoint& error) {
      all.push_back({{"directory", step.directory},
                     {"latest", step.latest},
                     {"complete", false},
                     {"fault", error.what()}});
      text += fmt::format("{}{}\n  not complete: {}\n", step.directory, step.latest ? " (latest)" : "",
                          error.what());
    }
  }
  fmt::print("{}", as_json ? text_of({{"checkpoints", all}}) : text);
  return 0;
}

int verify_all(const std::vector<StepState>& steps, bool as_json) {
  Json all = Json::array();
  bool sound = true;
  for (const StepState& step : steps) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::string> problems;
    std::int64_t bytes = 0;
    try {
      CheckpointReader reader(step.directory, default_thread_count(1));
      bytes = contents_of(reader.manifest()).bytes;
      problems = reader.problems();
    } catch (const DamagedCheckpoint& error) {
      problems = error.problems();
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    sound = sound && problems.empty();
    all.push_back({{"directory", step.directory},
                   {"latest", step.latest},
                   {"sound", problems.empty()},
                   {"problems", problems},
                   {"bytes", bytes},
                   {"seconds", seconds}});
    if (as_json) continue;
    fmt::print(
        "{}{}: {}\n", step.directory, step.latest ? " (latest)" : "",
        problems.empty() ? fmt::format("sound, {} read in {:.1f} s", bytes_text(bytes), seconds) : "DAMAGED");
    for (const std::string& problem : problems) fmt::print("  {}\n", problem);
  }
  if (as_json) fmt::print("{}", text_of({{"sound", sound}, {"checkpoints", all}}));
  return sound ? 0 : 1;
}

}  // namespace

int run_checkpoint(Runtime& runtime, const CheckpointOptions& options) {
  require_one_rank(runtime, "checkpoint");
  const std::vector<StepState> steps = steps_of(options.directory);
  return options.action == "info" ? show_info(steps, options.json) : verify_all(steps, options.json);
}

}  // namespace hysparse
