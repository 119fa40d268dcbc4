#include <fmt/format.h>

#include "checkpoint/file.h"
#include "launch/config.h"
#include "launch/config_tree.h"
#include "launch/nearest.h"
#include "launch/run_device.h"
#include "launch/schema.h"

namespace hysparse {
namespace {

constexpr std::size_t max_problems = 50;

/// Walks a tree along the schema into a RunConfig.
class Reader {
 public:
  RunConfig config;
  std::vector<std::string> problems;
  std::set<std::string> broken;  ///< key paths and sections whose value was refused

  void section(const YamlNode& mapping, const std::string& prefix) {
    for (const YamlEntry& entry : mapping.entries) {
      const std::string path = prefix + entry.key;
      if (is_section(path)) {
        subsection(entry, path);
      } else if (const SchemaKey* key = find_key(path)) {
        value(entry, *key);
      } else {
        problems.push_back(
            fmt::format("{}: {}: unknown key{}", entry.where, printable(path), suggestion(nearest_key(path))));
      }
    }
  }

  void missing_keys(const std::string& name) {
    for (const SchemaKey& key : schema()) {
      if (key.required && !config.origins.contains(key.path) && !is_broken(key.path)) {
        problems.push_back(
            fmt::format("{}: {}: required key is missing; must be {}", name, key.path, key.allowed));
        broken.insert(key.path);
      }
    }
  }

  /// Fills what follows from other keys.
  void derive(int world) {
    derive_layers();
    if (config.model.moe) {
      config.model.moe->has_correction_bias = config.model.moe->bias_update_rate > 0;
      config.model.moe->balanced_routing = config.train.balanced_routing;
    }
    RunConfig::DeviceChoice& device = config.train.device;
    RunConfig::DTypeChoice& dtype = config.train.dtype;
    if (device == RunConfig::DeviceChoice::automatic) {
      // fp64 is for proofs, on the CPU; several ranks are for the CPU too, so far.
      const bool gpu = dtype != RunConfig::DTypeChoice::fp64 && world == 1 && usable_gpus() > 0;
      device = gpu ? RunConfig::DeviceChoice::cuda : RunConfig::DeviceChoice::cpu;
    }
    if (dtype == RunConfig::DTypeChoice::automatic) {
      dtype =
          device == RunConfig::DeviceChoice::cpu ? RunConfig::DTypeChoice::fp32 : RunConfig::DTypeChoice::bf16;
    }
  }

 private:
  bool is_broken(const std::string& path) const { return names_key(broken, path); }
  const std::string& origin(const std::string& path) const { return config.origins.at(path); }

  void subsection(const YamlEntry& entry, const std::string& path) {
    if (path == "model.moe" && entry.value->kind == YamlNode::Kind::null) return;
    if (entry.value->kind != YamlNode::Kind::mapping) {
      problems.push_back(
          fmt::format("{}: {}: {}: must be a section of keys", entry.where, path, describe(*entry.value)));
      broken.insert(path);
      return;
    }
    if (path == "model.moe") config.model.moe.emplace();
    section(*entry.value, path + ".");
  }

  void value(const YamlEntry& entry, const SchemaKey& key) {
    if (const auto hint = key.read(*entry.value, config)) {
      problems.push_back(fmt::format("{}: {}: {}: must be {}{}", entry.where, key.path, describe(*entry.value),
                                     key.allowed, *hint));
      broken.insert(key.path);
      return;
    }
    config.origins[key.path] = entry.where;
  }

  void derive_layers() {
    RunConfig::Layers& layers = config.layers;
    std::vector<LayerType>& types = config.model.layer_types;
    if (is_broken("model.layer_types")) broken.insert("model.num_layers");
    if (layers.listed) {
      const auto size = static_cast<std::int64_t>(types.size());
      if (config.origins.contains("model.num_layers") && layers.num_layers != size) {
        problems.push_back(fmt::format("{}: model.num_layers: {}: model.layer_types lists {} layers",
                                       origin("model.num_layers"), layers.num_layers, size));
      }
      for (const char* key : {"model.hybrid_ratio", "model.attention"}) {
        if (!config.origins.contains(key)) continue;
        problems.push_back(fmt::format(
            "{}: {}: model.layer_types lists the layers already; give one or the other", origin(key), key));
      }
      layers.num_layers = size;
      return;
    }
    types.assign(static_cast<std::size_t>(layers.num_layers),
                 LayerType::full_attention);  // what other rules may judge
    if (is_broken("model.layer_types") || is_broken("model.hybrid_ratio") || is_broken("model.attention") ||
        is_broken("model.num_layers") || layers.attention == RunConfig::Attention::full) {
      return;
    }
    if (layers.num_layers < layers.followers + 2) {
      const bool ratio_given = config.origins.contains("model.hybrid_ratio");
      const bool layers_given = config.origins.contains("model.num_layers");
      const std::string where = ratio_given    ? origin("model.hybrid_ratio") + ": "
                                : layers_given ? origin("model.num_layers") + ": "
                                               : "";
      problems.push_back(
          fmt::format("{}model.hybrid_ratio: 1:{}: needs at least {} layers (a full layer, {} followers, a "
                      "closing full layer), "
                      "model.num_layers is {}",
                      where, layers.followers, layers.followers + 2, layers.followers, layers.num_layers));
    } else {
      types = layer_types_from_ratio(layers.num_layers, layers.followers,
                                     layers.attention == RunConfig::Attention::hysparse
                                         ? LayerType::sparse_attention
                                         : LayerType::sliding_attention);
    }
  }
};

/// The rules of the keys in `unjudged` are left out.
RunConfig resolve(const YamlNode& tree, const std::string& name, std::vector<std::string> problems,
                  std::optional<int> world, const std::set<std::string>& unjudged = {}) {
  Reader reader;
  reader.problems = std::move(problems);
  reader.section(tree, "");
  reader.missing_keys(name);
  reader.derive(world.value_or(1));
  reader.broken.insert(unjudged.begin(), unjudged.end());
  for (std::string& problem : validate(reader.config, world, reader.broken)) {
    reader.problems.push_back(std::move(problem));
  }
  if (reader.problems.size() > max_problems) {
    const std::size_t more = reader.problems.size() - max_problems;
    reader.problems.resize(max_problems);
    reader.problems.push_back(fmt::format("{}: {} more problems", name, more));
  }
  if (!reader.problems.empty()) throw Error(reader.problems);
  return reader.config;
}

}  // namespace

RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides,
                      std::optional<int> world) {
  std::vector<std::string> problems;
  YamlPointer tree = read_config_files(path, problems);
  if (!tree) throw Error(problems);
  for (const std::string& override_text : overrides) tree = apply_override(tree, override_text, problems);
  return resolve(*tree, path, std::move(problems), world);
}

RunConfig config_from_text(const std::string& text, const std::string& name, std::optional<int> world) {
  std::vector<std::string> problems;
  const YamlPointer tree = read_yaml(text, name, problems);
  if (!tree) throw Error(problems);
  // What a GPU has trained is read where there is none.
  return resolve(*tree, name, std::move(problems), world,
                 {"train.device", "train.dtype", "parallel.share_gpu"});
}

}  // namespace hysparse
