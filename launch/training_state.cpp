#include "launch/training_state.h"

#include <algorithm>
#include <set>

#include "checkpoint/reader.h"
#include "launch/config.h"
#include "launch/host_values.h"
#include "launch/model_source.h"
#include "launch/schema.h"
#include "launch/user_input.h"
#include "launch/yaml_values.h"

namespace hysparse {
namespace {

std::string exp_avg_name(const std::string& parameter) {
  return "optim/exp_avg/" + parameter;
}
std::string exp_avg_sq_name(const std::string& parameter) {
  return "optim/exp_avg_sq/" + parameter;
}

std::vector<TensorInfo> expected_tensors(const ParameterSet& parameters) {
  std::vector<TensorInfo> expected;
  for (const ParameterDeclaration& d : parameters.declarations()) {
    expected.push_back({d.name, d.shape, parameters.dtype()});
    if (!d.trainable) continue;
    expected.push_back({exp_avg_name(d.name), d.shape, parameters.dtype()});
    expected.push_back({exp_avg_sq_name(d.name), d.shape, parameters.dtype()});
  }
  return expected;
}

/// Keys of the model that may change between two parts of a run: they shape the training, not what is computed.
const std::set<std::string> free_model_keys{
    "model.attention",          "model.hybrid_ratio", "model.num_layers", "model.layer_types",
    "model.init_std",           "model.moe.aux_loss", "model.moe.z_loss", "model.moe.bias_update_rate",
    "model.moe.capacity_factor"};

/// Throws Error naming each model key that is not what the checkpoint was trained with.
void require_same_model(const RunConfig& config, const CheckpointReader& reader) {
  RunConfig stored =
      config_from_text(reader.info().config, reader.directory() + "/manifest.json: config", std::nullopt);
  RunConfig now = config;
  std::vector<std::string> problems;
  const auto compare = [&](const std::string& what, const std::string& after, const std::string& before) {
    if (before == after) return;
    problems.push_back(
        fmt::format("{}{}: the checkpoint {} was trained with {}; another model needs another run.dir", what,
                    after, reader.directory(), before));
  };
  const auto experts = [](const RunConfig& c) { return std::string(c.model.moe ? "experts" : "null"); };
  compare("model.moe: ", experts(now), experts(stored));
  for (const SchemaKey& key : schema()) {
    if (!key.path.starts_with("model.") || free_model_keys.contains(key.path)) continue;
    const bool of_experts = key.path.starts_with("model.moe.");
    if (of_experts && !(now.model.moe && stored.model.moe)) continue;
    compare(key.path + ": ", key.write(now), key.write(stored));
  }
  if (now.model.moe && stored.model.moe) {  // the rate may change, but not to or from 0: no correction bias
    const auto rate = [](const RunConfig& c) { return c.model.moe->bias_update_rate; };
    if ((rate(now) > 0) != (rate(stored) > 0)) {
      compare("model.moe.bias_update_rate: ", fmt::format("{}", rate(now)), fmt::format("{}", rate(stored)));
    }
  }
  const std::vector<LayerType>&after = now.model.layer_types, &before = stored.model.layer_types;
  compare("model.num_layers: ", std::to_string(after.size()), std::to_string(before.size()));
  const auto [a, b] = std::mismatch(after.begin(), after.end(), before.begin(), before.end());
  if (after.size() == before.size() && a != after.end()) {
    compare(fmt::format("model.layer_types: layer {}: ", a - after.begin()), layer_type_name(*a),
            layer_type_name(*b));
  }
  if (!problems.empty()) throw Error(problems);
}

std::int64_t counted(const CheckpointReader& reader, const std::string& key) {
  const auto it = reader.info().data_state.find(key);
  if (it == reader.info().data_state.end()) {
    throw_error("{}/manifest.json: data_state has no {}", reader.directory(), key);
  }
  const auto count = parse_integer(it->second);
  if (!count || *count < 0) {
    throw_error("{}/manifest.json: data_state: {}: {}: must be an integer of at least 0", reader.directory(),
                key, it->second);
  }
  return *count;
}

void read_to_device(CheckpointReader& reader, const std::string& name, const Box& box, const Tensor& out) {
  if (out.device().is_cpu()) return reader.read(name, box, out);
  const Tensor host = Tensor::empty(out.shape(), out.dtype());
  reader.read(name, box, host);
  out.copy_from(host);
}

TrainingProgress read_state(CheckpointReader& reader, const RunConfig& config, ParameterSet& parameters,
                            ShardedOptimizer& optimizer) {
  require_same_model(config, reader);
  reader.require(expected_tensors(parameters));
  for (const ParameterSet::Entry& e : parameters.entries()) {
    reader.read(e.declaration.name, e.box, e.parameter.value);
  }
  for (const StatePiece& piece : optimizer.state()) {
    read_to_device(reader, exp_avg_name(piece.name), piece.global_box, piece.exp_avg);
    read_to_device(reader, exp_avg_sq_name(piece.name), piece.global_box, piece.exp_avg_sq);
  }
  optimizer.set_steps(counted(reader, "optimizer_steps"));
  return {reader.info().step, counted(reader, "samples"), reader.info().tokens_seen};
}

}  // namespace

void check_training_state(const RunConfig& config) {
  std::vector<std::string> warnings;
  if (const auto latest = find_latest(config.run.dir, &warnings)) {
    require_same_model(config, CheckpointReader(*latest));
  } else if (config.run.init_from) {
    with_key("run.init_from", [&] { ModelSource::open(*config.run.init_from); });
  }
}

TrainingStart load_training_state(Runtime& runtime, const RunConfig& config, ParameterSet& parameters,
                                  ShardedOptimizer& optimizer, const ProcessGroups& groups) {
  TrainingStart start;
  HostValues host(config, parameters, groups);
  runtime.agree([&] {
    if (const auto latest = find_latest(config.run.dir, &start.warnings)) {
      CheckpointReader reader(*latest);
      start.progress = read_state(reader, config, host.values(), optimizer);
      start.from = fmt::format("step {} of {}", start.progress.step, *latest);
    } else if (config.run.init_from) {
      with_key("run.init_from", [&] {
        const auto source = ModelSource::open(*config.run.init_from);
        source->load(host.values());
        start.from = source->description();
      });
    } else {
      host.values().initialize(static_cast<std::uint64_t>(config.run.seed));
      start.from = fmt::format("initial values, run.seed {}", config.run.seed);
    }
  });
  host.apply(optimizer);
  return start;
}

void initialize_training_state(const RunConfig& config, ParameterSet& parameters, ShardedOptimizer& optimizer,
                               const ProcessGroups& groups) {
  HostValues host(config, parameters, groups);
  host.values().initialize(static_cast<std::uint64_t>(config.run.seed));
  host.apply(optimizer);
}

void save_training_state(CheckpointWriter& writer, const RunConfig& config, const ProcessGroups& groups,
                         ParameterSet& parameters, ShardedOptimizer& optimizer,
                         const TrainingProgress& progress) {
  std::vector<Piece> pieces;
  const auto add = [&](const std::string& name, const Shape& shape, const Box& box, const Tensor& tensor) {
    pieces.push_back({name, shape, box, tensor.to_device(Device{})});
  };
  for (const StatePiece& piece : optimizer.state()) {
    if (!piece.owner) continue;
    add(piece.name, piece.global_shape, piece.global_box, piece.value);
    add(exp_avg_name(piece.name), piece.global_shape, piece.global_box, piece.exp_avg);
    add(exp_avg_sq_name(piece.name), piece.global_shape, piece.global_box, piece.exp_avg_sq);
  }
  for (const ParameterSet::Entry& e : parameters.entries()) {
    // Buffers are whole and equal on all ranks of their stage.
    if (e.declaration.trainable || groups.stage->rank() != 0) continue;
    add(e.declaration.name, e.declaration.shape, e.box, e.parameter.value);
  }
  CheckpointInfo info;
  info.step = progress.step;
  info.tokens_seen = progress.tokens;
  info.seed = static_cast<std::uint64_t>(config.run.seed);
  info.layout = groups.mesh.str();
  for (const Axis axis : {Axis::pp, Axis::dp, Axis::cp, Axis::tp, Axis::edp, Axis::ep, Axis::etp}) {
    info.mesh[std::string(axis_name(axis))] = groups.mesh.size(axis);
  }
  info.data_state = {{"samples", std::to_string(progress.samples)},
                     {"optimizer_steps", std::to_string(optimizer.steps())}};
  info.config = config_yaml(config);
  info.versions = {{"hysparse", "0.1.0"}};
  writer.save(info, std::move(pieces), config.checkpoint.async);
}

}  // namespace hysparse
