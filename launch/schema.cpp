#include "launch/schema.h"

#include <algorithm>

#include "launch/nearest.h"

namespace hysparse {

const std::vector<SchemaSection>& schema_sections() {
  static const std::vector<SchemaSection> sections = {
      {"run", "The run: its directory and seed."},
      {"model", "The model, layer by layer."},
      {"model.rope", "Rotary position embedding."},
      {"model.moe", "Mixture of experts. Absent or null: every layer is dense."},
      {"parallel",
       "The mesh: dp = world / (tp * cp * pp), experts lie on pp * edp * ep * etp over the same ranks."},
      {"data", "Token data."},
      {"train", "The training loop."},
      {"optim", "Optimizer and learning rate."},
      {"optim.muon", "Read when name is muon."},
      {"checkpoint", "Checkpoints of the run."},
  };
  return sections;
}

const SchemaKey* find_key(const std::string& path) {
  for (const SchemaKey& key : schema()) {
    if (key.path == path) return &key;
  }
  return nullptr;
}

bool is_section(const std::string& path) {
  const auto& sections = schema_sections();
  return std::any_of(sections.begin(), sections.end(), [&](const SchemaSection& s) { return s.path == path; });
}

bool names_key(const std::set<std::string>& paths, const std::string& path) {
  for (std::size_t end = path.size(); end != std::string::npos; end = path.rfind('.', end - 1)) {
    if (paths.contains(path.substr(0, end))) return true;
  }
  return false;
}

std::optional<std::string> nearest_key(const std::string& path) {
  const auto last_name = [](const std::string& p) { return p.substr(p.rfind('.') + 1); };
  const std::string section = path.substr(0, path.size() - last_name(path).size());
  std::vector<std::string> paths, beside;
  for (const SchemaSection& s : schema_sections()) paths.push_back(s.path);
  for (const SchemaKey& key : schema()) paths.push_back(key.path);
  // The right name in the wrong section, then a slip inside the right section, then anything near.
  for (const std::string& p : paths) {
    if (last_name(p) == last_name(path)) return p;
  }
  for (const std::string& p : paths) {
    if (p.size() > section.size() && p.compare(0, section.size(), section) == 0 &&
        p.find('.', section.size()) == std::string::npos) {
      beside.push_back(p.substr(section.size()));
    }
  }
  if (const auto near = nearest_name(last_name(path), beside)) return section + *near;
  if (section.empty() || !is_section(section.substr(0, section.size() - 1))) {
    if (const auto near = nearest_name(path, paths)) return near;
  }
  std::vector<std::string> names;
  for (const std::string& p : paths) names.push_back(last_name(p));
  const auto near = nearest_name(last_name(path), names);
  if (!near) return std::nullopt;
  return paths[static_cast<std::size_t>(std::find(names.begin(), names.end(), *near) - names.begin())];
}

}  // namespace hysparse
