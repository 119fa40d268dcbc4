/// The configuration of a run: reading, checking, printing. Everything about single keys comes from the schema
/// (launch/schema.h); the rules between keys are in config_validate.cpp.
///
/// A problem is one line: "configs/x.yaml:12: model.num_heads: -3: must be a positive integer".
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launch/run_config.h"

namespace hysparse {

/// Reads a YAML file with its chain of `base` files, applies the overrides ("key.path=value", the later wins)
/// and the defaults, and checks everything. `world` is the number of ranks; nullopt leaves out the rules that
/// need it. Throws Error with every problem found.
RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides,
                      std::optional<int> world);

/// The same from text, `name` standing for the file: a resolved config that a checkpoint holds. `base` is
/// refused. Whether this build can compute on the device it names is not judged.
RunConfig config_from_text(const std::string& text, const std::string& name, std::optional<int> world);

/// The rules between keys, and the options that are not there yet; empty when all is well. Rules that involve a
/// key in `broken` (its value was refused already; a section stands for its keys) are left out.
std::vector<std::string> validate(const RunConfig& config, std::optional<int> world,
                                  const std::set<std::string>& broken = {});

/// The resolved config as YAML, every key given; reads back to the same config.
std::string config_yaml(const RunConfig& config);

/// docs/config.md, from the schema.
std::string config_docs();

/// Every key with its default and meaning, for `hysparse train --help`.
std::string config_help();

}  // namespace hysparse
