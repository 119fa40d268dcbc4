#include <algorithm>

#include <fmt/format.h>

#include "launch/config.h"
#include "launch/schema.h"

namespace hysparse {
namespace {

std::string section_of(const std::string& path) {
  return path.substr(0, path.rfind('.'));
}
std::string name_of(const std::string& path) {
  return path.substr(path.rfind('.') + 1);
}

std::size_t depth(const std::string& path) {
  return static_cast<std::size_t>(std::count(path.begin(), path.end(), '.'));
}

/// Every default, with the optional section filled in so that its keys have some.
RunConfig defaults() {
  RunConfig config;
  config.model.moe.emplace();
  return config;
}

std::string default_of(const SchemaKey& key) {
  if (key.required) return "required";
  RunConfig config = defaults();
  return key.write(config);
}

/// Is the key part of how this config says its layers?
bool printed(const SchemaKey& key, const RunConfig& config) {
  const bool listed = config.layers.listed;
  if (key.path == "model.layer_types") return listed;
  if (key.path == "model.attention" || key.path == "model.hybrid_ratio") return !listed;
  return true;
}

void print_section(const SchemaSection& section, RunConfig& config, std::string& text) {
  const std::string indent(2 * depth(section.path), ' ');
  if (section.path == "model.moe" && !config.model.moe) {
    text += indent + "moe: null\n";
    return;
  }
  text += fmt::format("{}{}:\n", indent, name_of(section.path));
  for (const SchemaKey& key : schema()) {
    if (section_of(key.path) != section.path || !printed(key, config)) continue;
    text += fmt::format("{}  {}: {}\n", indent, name_of(key.path), key.write(config));
  }
}

/// Text inside a cell of a Markdown table.
std::string cell(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '|') result += '\\';
    result += c;
  }
  return result;
}

constexpr const char* introduction = R"(# Configuration

<!-- Made by `hysparse config-docs > docs/config.md` from the schema in launch/schema_table.cpp; a test keeps it so. -->

A run is described by one YAML file: `hysparse train CONFIG.yaml [key.path=value ...]`. Every key is listed below with
its default; `required` ones must be given.

- **Inheritance.** `base: other.yaml` at the top of a file starts from that file (its path is relative to the file that
  names it) and overrides it key by key. A base may have a base.
- **Overrides.** `key.path=value` on the command line wins over every file, the last one over the others. The value is
  read as YAML: `train.steps=1e4`, `optim.betas=[0.9, 0.99]`, `model.moe=null`.
- **Layers.** Either `model.hybrid_ratio` and `model.attention`, or the list `model.layer_types`. Giving one in a file or
  override replaces the other of the files below it.
- **Values.** Numbers are decimal (`010` is ten); a whole number may be written `1e6`. Booleans are `true` and `false`.
  A key may be given once; unknown keys, YAML tags and aliases of anything but single values are errors.
- **Checks.** All problems are reported at once, one a line, with file and line, and the program exits with status 2
  before anything is written. Options that are not there yet are refused, never ignored.
- `hysparse train CONFIG.yaml --print-config` prints the resolved configuration, every key given; it reads back to the same
  configuration. The run directory keeps it as `config.yaml`.
)";

}  // namespace

std::string config_yaml(const RunConfig& config) {
  RunConfig copy = config;
  std::string text;
  for (const SchemaSection& section : schema_sections()) print_section(section, copy, text);
  return text;
}

std::string config_docs() {
  std::string text = introduction;
  for (const SchemaSection& section : schema_sections()) {
    text += fmt::format("\n## {}\n\n{}\n\n| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n",
                        section.path, section.help);
    for (const SchemaKey& key : schema()) {
      if (section_of(key.path) != section.path) continue;
      text += fmt::format("| `{}` | {} | {} | {} |\n", name_of(key.path),
                          key.required ? default_of(key) : fmt::format("`{}`", default_of(key)),
                          cell(key.allowed), cell(key.help));
    }
  }
  return text;
}

std::string config_help() {
  std::string text = "Keys of CONFIG.yaml and of overrides (docs/config.md):\n";
  for (const SchemaKey& key : schema()) {
    text += fmt::format("  {} [{}]\n      {} ({})\n", key.path, default_of(key), key.help, key.allowed);
  }
  return text;
}

}  // namespace hysparse
