#include "launch/training_state.h"

#include <algorithm>
#include <set>

#include "checkpoint/agreement.h"
#include "checkpoint/reader.h"
#include "core/thread_pool.h"
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

/// Whether a checkpoint holds moments: that of an import, before the first step, does not.
bool has_moments(const CheckpointReader& reader, const ParameterSet& parameters) {
  if (reader.info().step > 0) return true;
  const std::vector<ParameterDeclaration>& all = parameters.declarations();
  return std::any_of(all.begin(), all.end(),
                     [&](const auto& d) { return reader.contains(exp_avg_name(d.name)); });
}

std::vector<TensorInfo> expected_tensors(const ParameterSet& parameters, bool moments) {
  std::vector<TensorInfo> expected;
  for (const ParameterDeclaration& d : parameters.declarations()) {
    expected.push_back({d.name, d.shape, parameters.dtype()});
    if (!d.trainable || !moments) continue;
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

void require_same_run(const RunConfig& config, TrainingData& data, const CheckpointReader& reader) {
  require_same_model(config, reader);
  require_same_data(data, config, reader.info().data_state, reader.directory());
}

/// Reads all at once: a block of a file may hold parts of several tensors.
TrainingProgress read_state(CheckpointReader& reader, ParameterSet& parameters, ShardedOptimizer& optimizer,
                            const Runtime& runtime) {
  const bool moments = has_moments(reader, parameters);
  reader.require(expected_tensors(parameters, moments));
  std::vector<ReadRequest> requests;
  std::vector<std::pair<Tensor, Tensor>> to_gpu;
  for (const ParameterSet::Entry& e : parameters.entries())
    requests.push_back({e.declaration.name, e.box, e.parameter.value});
  const auto request = [&](const std::string& name, const Box& box, const Tensor& out) {
    Tensor host = out;
    if (!out.device().is_cpu()) {
      host = Tensor::empty(out.shape(), out.dtype());
      to_gpu.emplace_back(out, host);
    }
    requests.push_back({name, box, host});
  };
  for (const StatePiece& piece : optimizer.state()) {
    if (!moments) break;  // they begin as zeros
    request(exp_avg_name(piece.name), piece.global_box, piece.exp_avg);
    request(exp_avg_sq_name(piece.name), piece.global_box, piece.exp_avg_sq);
  }
  reader.read(requests);
  reader.verify_rest(runtime.rank(), runtime.world());
  for (const auto& [out, host] : to_gpu) out.copy_from(host);
  optimizer.set_steps(counted(reader, "optimizer_steps"));
  return {reader.info().step, counted(reader, "samples"), reader.info().tokens_seen};
}

/// The checkpoint to resume from, as rank 0 sees it (on a network file system another rank may see it later);
/// "" when there is none.
std::string agreed_latest(Runtime& runtime, const RunConfig& config, const ProcessGroups& groups,
                          const KnownDamage& damaged, std::vector<std::string>* warnings) {
  std::string latest;
  warnings->clear();
  runtime.agree([&] {
    if (runtime.rank() == 0) latest = find_latest(config.run.dir, warnings, damaged).value_or("");
  });
  return gather_texts(*groups.world, latest).front();
}

/// Reads the newest checkpoint that is sound on every rank; false when the run has none.
bool resume(Runtime& runtime, const RunConfig& config, TrainingData& data, ParameterSet& parameters,
            ShardedOptimizer& optimizer, const ProcessGroups& groups, TrainingStart* start) {
  constexpr int most_threads = 8;
  const int threads = std::min(default_thread_count(runtime.local_ranks()), most_threads);
  KnownDamage damaged;
  while (true) {
    const std::string latest = agreed_latest(runtime, config, groups, damaged, &start->warnings);
    if (latest.empty()) return false;
    std::string damage;
    runtime.agree([&] {
      try {
        CheckpointReader reader(latest, threads);
        require_same_run(config, data, reader);
        start->progress = read_state(reader, parameters, optimizer, runtime);
      } catch (const DamagedCheckpoint& error) {
        damage = error.what();
      }
    });
    const std::vector<std::string> found = gather_texts(*groups.world, damage);
    const auto first = std::find_if(found.begin(), found.end(), [](const auto& d) { return !d.empty(); });
    if (first == found.end()) {
      start->from = fmt::format("step {} of {}", start->progress.step, latest);
      return true;
    }
    damaged[latest] = *first;
  }
}

/// What this rank saves: between them the ranks save every element once.
std::vector<Piece> saved_pieces(const ProcessGroups& groups, const ParameterSet& parameters,
                                const ShardedOptimizer& optimizer) {
  std::vector<Piece> pieces;
  for (const StatePiece& piece : optimizer.state()) {
    if (!piece.owner) continue;
    const auto add = [&](const std::string& name, const Tensor& tensor) {
      pieces.push_back({name, piece.global_shape, piece.global_box, tensor});
    };
    add(piece.name, piece.value);
    add(exp_avg_name(piece.name), piece.exp_avg);
    add(exp_avg_sq_name(piece.name), piece.exp_avg_sq);
  }
  for (const ParameterSet::Entry& e : parameters.entries()) {
    // Buffers are whole and equal on all ranks of their stage.
    if (e.declaration.trainable || groups.stage->rank() != 0) continue;
    pieces.push_back({e.declaration.name, e.declaration.shape, e.box, e.parameter.value});
  }
  return pieces;
}

}  // namespace

void check_training_state(const RunConfig& config, TrainingData& data) {
  std::vector<std::string> warnings;
  if (const auto latest = find_latest(config.run.dir, &warnings)) {
    require_same_run(config, data, CheckpointReader(*latest));
  } else if (config.run.init_from) {
    with_key("run.init_from", [&] { ModelSource::open(*config.run.init_from); });
  }
}

TrainingStart load_training_state(Runtime& runtime, const RunConfig& config, TrainingData& data,
                                  ParameterSet& parameters, ShardedOptimizer& optimizer,
                                  const ProcessGroups& groups) {
  TrainingStart start;
  HostValues host(config, parameters, groups);
  if (!resume(runtime, config, data, host.values(), optimizer, groups, &start)) {
    runtime.agree([&] {
      if (config.run.init_from) {
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
  }
  host.apply(optimizer);
  return start;
}

void initialize_training_state(const RunConfig& config, ParameterSet& parameters, ShardedOptimizer& optimizer,
                               const ProcessGroups& groups) {
  HostValues host(config, parameters, groups);
  host.values().initialize(static_cast<std::uint64_t>(config.run.seed));
  host.apply(optimizer);
}

std::unique_ptr<CheckpointWriter> open_checkpoint_writer(const RunConfig& config, const ProcessGroups& groups,
                                                         const ParameterSet& parameters,
                                                         const ShardedOptimizer& optimizer) {
  auto writer = std::make_unique<CheckpointWriter>(config.run.dir, static_cast<int>(config.checkpoint.keep),
                                                   *groups.world);
  const std::vector<Piece> pieces = saved_pieces(groups, parameters, optimizer);
  const bool on_gpu = std::any_of(pieces.begin(), pieces.end(),
                                  [](const Piece& piece) { return !piece.data.device().is_cpu(); });
  if (config.checkpoint.async || on_gpu) writer->reserve_copy(pieces);
  return writer;
}

void save_training_state(CheckpointWriter& writer, const RunConfig& config, TrainingData& data,
                         const ProcessGroups& groups, ParameterSet& parameters, ShardedOptimizer& optimizer,
                         const TrainingProgress& progress) {
  CheckpointInfo info;
  info.step = progress.step;
  info.tokens_seen = progress.tokens;
  info.seed = static_cast<std::uint64_t>(config.run.seed);
  info.layout = groups.mesh.str();
  for (const Axis axis : {Axis::pp, Axis::dp, Axis::cp, Axis::tp, Axis::edp, Axis::ep, Axis::etp}) {
    info.mesh[std::string(axis_name(axis))] = groups.mesh.size(axis);
  }
  info.data_state = data_state(data, config, progress.samples);
  info.data_state["optimizer_steps"] = std::to_string(optimizer.steps());
  info.config = config_yaml(config);
  info.versions = {{"hysparse", "0.1.0"}};
  writer.save(info, saved_pieces(groups, parameters, optimizer), config.checkpoint.async);
}

}  // namespace hysparse
