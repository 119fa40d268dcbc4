#include <fmt/format.h>

#include "checkpoint/file.h"
#include "launch/nearest.h"
#include "launch/schema_fields.h"
#include "launch/yaml_values.h"

namespace hysparse::schema_fields {
namespace {

/// Stores one {path, weight} of a blend.
std::optional<std::string> read_source(const YamlNode& node, RunConfig::DataSource& source) {
  if (node.kind != YamlNode::Kind::mapping) return fmt::format(" (one is {})", describe(node));
  bool has_path = false, has_weight = false;
  for (const YamlEntry& entry : node.entries) {
    const bool scalar = entry.value->kind == YamlNode::Kind::scalar;
    if (entry.key == "path" && scalar && !entry.value->text.empty()) {
      source.path = entry.value->text;
      has_path = true;
    } else if (entry.key == "weight" && scalar && parse_number(entry.value->text).value_or(0) > 0) {
      source.weight = *parse_number(entry.value->text);
      has_weight = true;
    } else {
      return fmt::format(" (not {}: {})", printable(entry.key), describe(*entry.value));
    }
  }
  return has_path && has_weight ? std::nullopt
                                : std::optional<std::string>(" (path and weight are both needed)");
}

}  // namespace

/// "1:n"
SchemaKey hybrid_ratio_key() {
  SchemaKey key;
  key.path = "model.hybrid_ratio";
  key.type = "ratio";
  key.allowed = "\"1:n\": one full layer to n followers, n at least 1";
  key.help = "one full layer to n followers; the last layer is always full; needs at least n + 2 layers";
  key.read = [](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    if (node.kind != YamlNode::Kind::scalar || node.text.rfind("1:", 0) != 0) return "";
    const auto followers = parse_integer(node.text.substr(2));
    if (!followers || *followers < 1 || *followers > max_size) return "";
    config.layers.followers = *followers;
    return std::nullopt;
  };
  key.write = [](RunConfig& config) { return fmt::format("\"1:{}\"", config.layers.followers); };
  return key;
}

SchemaKey layer_types_key() {
  SchemaKey key;
  key.path = "model.layer_types";
  key.type = "list";
  key.allowed = "a list of full_attention, sparse_attention, sliding_attention";
  key.help = "the layers one by one, instead of attention and hybrid_ratio; a full layer before any sparse one";
  key.read = [](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    if (node.kind == YamlNode::Kind::null) return std::nullopt;
    if (node.kind != YamlNode::Kind::sequence || node.items.empty()) return "";
    std::vector<LayerType> types;
    for (const YamlPointer& item : node.items) {
      const auto type = item->kind == YamlNode::Kind::scalar ? layer_type_from(item->text) : std::nullopt;
      if (!type) {
        const auto meant =
            nearest_name(item->text, {"full_attention", "sparse_attention", "sliding_attention"});
        return fmt::format(" (item {} is {}{})", types.size() + 1, describe(*item), suggestion(meant));
      }
      types.push_back(*type);
    }
    config.model.layer_types = types;
    config.layers.listed = true;
    return std::nullopt;
  };
  key.write = [](RunConfig& config) {
    std::vector<std::string> names;
    for (const LayerType type : config.model.layer_types) names.push_back(layer_type_name(type));
    return config.layers.listed ? fmt::format("[{}]", fmt::join(names, ", ")) : std::string("null");
  };
  return key;
}

SchemaKey sources_key(std::string path, Field<std::vector<RunConfig::DataSource>> field, bool required,
                      std::string help) {
  SchemaKey key;
  key.path = std::move(path);
  key.type = "text or list";
  key.allowed = "a path, or a list of {path: text, weight: positive number}";
  if (!required) key.allowed = "null, " + key.allowed;
  key.help = std::move(help);
  key.required = required;
  key.read = [=](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    if (node.kind == YamlNode::Kind::null && !required) {
      field(config).clear();
      return std::nullopt;
    }
    if (node.kind == YamlNode::Kind::scalar && !node.text.empty()) {
      field(config) = {{node.text, 1.0}};
      return std::nullopt;
    }
    if (node.kind != YamlNode::Kind::sequence || node.items.empty()) return "";
    std::vector<RunConfig::DataSource> sources(node.items.size());
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (auto hint = read_source(*node.items[i], sources[i])) return hint;
    }
    field(config) = sources;
    return std::nullopt;
  };
  key.write = [=](RunConfig& config) {
    const auto& sources = field(config);
    if (sources.empty()) return std::string("null");
    if (sources.size() == 1) return format_text(sources[0].path);
    std::vector<std::string> texts;
    for (const auto& s : sources) {
      texts.push_back(fmt::format("{{path: {}, weight: {}}}", format_text(s.path), format_number(s.weight)));
    }
    return fmt::format("[{}]", fmt::join(texts, ", "));
  };
  return key;
}

}  // namespace hysparse::schema_fields
