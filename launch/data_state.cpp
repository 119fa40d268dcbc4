// The data's place in a checkpoint.
#include <algorithm>

#include "launch/run_tokenizer.h"
#include "launch/training_data.h"
#include "launch/yaml_values.h"

namespace hysparse {
namespace {

using State = std::map<std::string, std::string>;

constexpr const char* rule =
    "a run keeps its sources in their order, their weights, run.seed and train.seq_len, so that no sample "
    "comes "
    "twice or never (files may move); for other data give another run.dir, with run.init_from to start from "
    "these "
    "weights";

std::string source_key(std::size_t k, const char* name) {
  return fmt::format("source.{}.{}", k, name);
}

/// Reads a state, whose messages name the manifest.
class StateReader {
 public:
  StateReader(const State& state, const std::string& directory) : state_(state), directory_(directory) {}

  bool has(const std::string& key) const { return state_.contains(key); }
  std::int64_t integer(const std::string& key) const {
    const auto value = parse_integer(text(key));
    if (!value || *value < 0) {
      throw_error("{}/manifest.json: data_state: {}: {}: must be an integer of at least 0", directory_, key,
                  text(key));
    }
    return *value;
  }
  double weight(const std::string& key) const {
    const auto value = parse_number(text(key));
    if (!value || *value <= 0)
      throw_error("{}/manifest.json: data_state: {}: {}: must be a positive number", directory_, key,
                  text(key));
    return *value;
  }
  const std::string& text(const std::string& key) const {
    const auto it = state_.find(key);
    if (it == state_.end()) throw_error("{}/manifest.json: data_state has no {}", directory_, key);
    return it->second;
  }

 private:
  const State& state_;
  const std::string& directory_;
};

/// What the state says of each source.
std::vector<SourcePosition> stored_positions(const StateReader& state) {
  std::vector<SourcePosition> sources;
  constexpr std::int64_t most = 1 << 20;
  const std::int64_t count = std::min(state.integer("sources"), most);
  for (std::size_t k = 0; k < static_cast<std::size_t>(count); ++k) {
    sources.push_back({state.text(source_key(k, "path")), state.weight(source_key(k, "weight")),
                       state.integer(source_key(k, "tokens")), state.integer(source_key(k, "documents")),
                       state.integer(source_key(k, "samples"))});
  }
  return sources;
}

std::vector<std::int64_t> shares(const std::vector<SourcePosition>& sources) {
  std::vector<double> weights;
  for (const SourcePosition& source : sources) weights.push_back(source.weight);
  return whole_weights(weights);
}

}  // namespace

State data_state(TrainingData& data, const RunConfig& config, std::int64_t consumed_samples) {
  const std::vector<SourcePosition> sources = data.positions(consumed_samples);
  State state = {{"samples", std::to_string(consumed_samples)},
                 {"seed", std::to_string(config.run.seed)},
                 {"seq_len", std::to_string(config.train.seq_len)},
                 {"sources", std::to_string(sources.size())}};
  add_tokenizer(data.info(), state);
  for (std::size_t k = 0; k < sources.size(); ++k) {
    state[source_key(k, "path")] = sources[k].path;
    state[source_key(k, "weight")] = format_number(sources[k].weight);
    state[source_key(k, "tokens")] = std::to_string(sources[k].tokens);
    state[source_key(k, "documents")] = std::to_string(sources[k].documents);
    state[source_key(k, "samples")] = std::to_string(sources[k].samples);
  }
  return state;
}

void require_same_data(TrainingData& data, const RunConfig& config, const State& stored,
                       const std::string& directory) {
  const StateReader state(stored, directory);
  const std::vector<SourcePosition> now = data.positions(state.integer("samples"));
  std::vector<std::string> problems;
  const auto problem = [&](const std::string& what, const std::string& before) {
    problems.push_back(
        fmt::format("{}: the checkpoint {} was trained with {}: {}", what, directory, before, rule));
  };
  if (!state.has("sources")) {
    if (state.integer("samples") == 0) return;  // an import: nothing was used yet
    if (now.size() > 1) problem(fmt::format("data.train: {} sources", now.size()), "1");
    if (!problems.empty()) throw Error(problems);
    return;
  }
  const auto number = [&](const char* key, std::int64_t after, const char* name) {
    if (after != state.integer(name)) problem(fmt::format("{}: {}", key, after), state.text(name));
  };
  number("run.seed", config.run.seed, "seed");
  number("train.seq_len", config.train.seq_len, "seq_len");
  const std::vector<SourcePosition> before = stored_positions(state);
  if (now.size() != before.size()) {
    problem(fmt::format("data.train: {} sources", now.size()), std::to_string(before.size()));
    throw Error(problems);
  }
  const std::vector<std::int64_t> share = shares(now), share_before = shares(before);
  for (std::size_t k = 0; k < now.size(); ++k) {
    const SourcePosition &a = now[k], &b = before[k];
    if (a.tokens != b.tokens || a.documents != b.documents) {
      problem(fmt::format("data.train: {}: {} tokens in {} documents", a.path, a.tokens, a.documents),
              fmt::format("{}: {} tokens in {} documents", b.path, b.tokens, b.documents));
    } else if (share[k] != share_before[k]) {
      problem(fmt::format("data.train: {}: weight {}", a.path, a.weight), fmt::format("weight {}", b.weight));
    } else if (problems.empty() && a.samples != b.samples) {
      throw_error("{}/manifest.json: data_state: {}: {}: {} of {} samples belong to this source", directory,
                  source_key(k, "samples"), b.samples, a.samples, state.text("samples"));
    }
  }
  if (!problems.empty()) throw Error(problems);
}

}  // namespace hysparse
