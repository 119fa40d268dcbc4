/// From files and overrides to one tree of YAML: base files below, overrides on top.
#pragma once

#include <string>
#include <vector>

#include "launch/yaml_reader.h"

namespace hysparse {

/// The tree of a file and the files it inherits from; nullptr when one cannot be read. `base` is taken relative
/// to the file that names it. Problems are appended.
YamlPointer read_config_files(const std::string& path, std::vector<std::string>& problems);

/// `tree` with one "key.path=value" on top.
YamlPointer apply_override(const YamlPointer& tree, const std::string& override_text,
                           std::vector<std::string>& problems);

}  // namespace hysparse
