/// The one schema of the configuration: every key with its type, default, allowed values and meaning. Parsing,
/// validation of single values, defaults, help, docs/config.md and --print-config all come from this table.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launch/run_config.h"
#include "launch/yaml_reader.h"

namespace hysparse {

struct SchemaKey {
  std::string path;  ///< "model.num_heads"
  std::string type;  ///< for people: "integer", "number", "true | false", "full | hybrid_swa | hysparse", ...
  std::string allowed;  ///< completes "must be ...": "an integer of at least 1"
  std::string help;     ///< one line
  bool required = false;
  /// Stores the node's value. When it is not allowed, stores nothing and returns a hint for the end of the
  /// message (may be empty).
  std::function<std::optional<std::string>(const YamlNode&, RunConfig&)> read;
  /// The value as YAML, on one line ("null" when absent).
  std::function<std::string(RunConfig&)> write;
};

/// A group of keys that share a prefix.
struct SchemaSection {
  std::string path;  ///< "model.moe"
  std::string help;
};

const std::vector<SchemaKey>& schema();
const std::vector<SchemaSection>& schema_sections();

/// nullptr when there is no such key.
const SchemaKey* find_key(const std::string& path);
bool is_section(const std::string& path);
/// Does the set hold the path or a section that it lies in?
bool names_key(const std::set<std::string>& paths, const std::string& path);

/// The valid key that a wrong one most likely means: a near name in its section, the same name in another, or
/// the nearest path; nullopt when nothing is near.
std::optional<std::string> nearest_key(const std::string& path);

}  // namespace hysparse
