/// YAML text as a tree that remembers where everything stood. Stricter than YAML: duplicate keys, tags, several
/// documents, text that is not UTF-8 and nesting beyond what a config can mean are errors; scalars stay text,
/// so that the schema decides what `010` or `1e6` is.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace hysparse {

struct YamlNode;
using YamlPointer = std::shared_ptr<YamlNode>;

struct YamlEntry {
  std::string key;
  std::string where;  ///< of the key, "file:line"
  YamlPointer value;
};

struct YamlNode {
  enum class Kind { null, scalar, sequence, mapping };
  Kind kind = Kind::null;
  std::string where;               ///< "file:line" or "command line"
  std::string text;                ///< scalar
  bool quoted = false;             ///< scalar: written in quotes or as a block, so it is text and nothing else
  std::vector<YamlPointer> items;  ///< sequence
  std::vector<YamlEntry> entries;  ///< mapping, keys unique

  const YamlEntry* find(const std::string& key) const;
};

/// Parses the one document of a file called `name`. Problems are appended as whole lines; null is returned when
/// the text cannot be read as sections of keys at all, an empty mapping for an empty document.
YamlPointer read_yaml(const std::string& text, const std::string& name, std::vector<std::string>& problems);

/// The value of an override: one YAML value, whose place is "command line".
YamlPointer read_yaml_value(const std::string& text, const std::string& override_text,
                            std::vector<std::string>& problems);

/// What is wrong with a node's value, as a message shows it: `-3`, `"8"`, `a list`, `a section`, `nothing`.
std::string describe(const YamlNode& node);

/// `base` overridden by `over`, key by key where both are mappings; otherwise `over`.
YamlPointer merge_yaml(const YamlPointer& base, const YamlPointer& over);

}  // namespace hysparse
