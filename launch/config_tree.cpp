#include "launch/config_tree.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "checkpoint/file.h"
#include "launch/schema.h"

namespace hysparse {
namespace {

constexpr std::int64_t max_file_bytes = 256 * 1024;

void erase(YamlNode& mapping, const std::string& key) {
  std::erase_if(mapping.entries, [&](const YamlEntry& entry) { return entry.key == key; });
}

bool given(const YamlNode& mapping, const std::string& key) {
  const YamlEntry* entry = mapping.find(key);
  return entry != nullptr && entry->value->kind != YamlNode::Kind::null;
}

/// A section with nothing in it ("train:" and only comments) changes nothing; only `moe: null` means something.
void erase_empty_sections(YamlNode& mapping, const std::string& prefix) {
  std::erase_if(mapping.entries, [&](const YamlEntry& entry) {
    const std::string path = prefix + entry.key;
    return entry.value->kind == YamlNode::Kind::null && path != "model.moe" && is_section(path);
  });
  for (const YamlEntry& entry : mapping.entries) {
    if (is_section(prefix + entry.key)) erase_empty_sections(*entry.value, prefix + entry.key + ".");
  }
}

/// `base` overridden by `over`. layer_types and hybrid_ratio say the same thing in two ways: giving one above
/// replaces the other below.
YamlPointer layer(const YamlPointer& base, const YamlPointer& over) {
  erase_empty_sections(*over, "");
  const YamlEntry* below = base->find("model");
  const YamlEntry* above = over->find("model");
  if (below != nullptr && above != nullptr) {
    YamlNode& model = *below->value;
    if (given(*above->value, "layer_types")) {
      for (const char* key : {"attention", "hybrid_ratio", "num_layers"}) erase(model, key);
    } else if (given(*above->value, "hybrid_ratio")) {
      erase(model, "layer_types");
    }
  }
  return merge_yaml(base, over);
}

YamlPointer read_chain(const std::string& path, std::vector<std::string>& chain,
                       std::vector<std::string>& problems) {
  YamlPointer tree;
  try {
    tree = read_yaml(read_text_file(path, max_file_bytes), path, problems);
  } catch (const Error& e) {
    problems.insert(problems.end(), e.problems().begin(), e.problems().end());
  }
  const YamlEntry* base = tree ? tree->find("base") : nullptr;
  if (base == nullptr) return tree;
  if (base->value->kind != YamlNode::Kind::scalar || base->value->text.empty()) {
    problems.push_back(
        fmt::format("{}: base: {}: must be the path of a YAML file", base->where, describe(*base->value)));
    erase(*tree, "base");
    return tree;
  }
  const std::filesystem::path here(path);
  const std::string base_path = (here.parent_path() / base->value->text).lexically_normal().string();
  const std::string label = fmt::format("{}: base: {}", base->where, printable(base->value->text));
  erase(*tree, "base");
  std::error_code unused;
  const std::string canonical = std::filesystem::weakly_canonical(base_path, unused).string();
  if (std::find(chain.begin(), chain.end(), canonical) != chain.end()) {
    problems.push_back(fmt::format("{}: inherits from itself", label));
    return tree;
  }
  chain.push_back(canonical);
  const std::size_t before = problems.size();
  const YamlPointer below = read_chain(base_path, chain, problems);
  if (!below) {
    // The file's own problems name the file; say who asked for it.
    for (std::size_t i = before; i < problems.size(); ++i)
      problems[i] = fmt::format("{}: {}", label, problems[i]);
    return nullptr;
  }
  return layer(below, tree);
}

}  // namespace

YamlPointer read_config_files(const std::string& path, std::vector<std::string>& problems) {
  std::error_code unused;
  std::vector<std::string> chain = {std::filesystem::weakly_canonical(path, unused).string()};
  const YamlPointer tree = read_chain(path, chain, problems);
  if (tree) erase_empty_sections(*tree, "");
  return tree;
}

YamlPointer apply_override(const YamlPointer& tree, const std::string& override_text,
                           std::vector<std::string>& problems) {
  const auto problem = [&](const std::string& text) {
    problems.push_back(fmt::format("command line: {}: {}", printable(override_text), text));
    return tree;
  };
  const std::size_t equals = override_text.find('=');
  if (equals == std::string::npos) return problem("an override is key.path=value");
  const std::string path = override_text.substr(0, equals);
  if (path.empty() || path.front() == '.' || path.back() == '.' || path.find("..") != std::string::npos ||
      std::count(path.begin(), path.end(), '.') > 4) {
    return problem("an override is key.path=value, with a key such as train.steps");
  }
  if (path == "base") return problem("base belongs in a file");
  YamlPointer value = read_yaml_value(override_text.substr(equals + 1), override_text, problems);
  if (!value) return tree;
  for (std::size_t end = path.size(); end != std::string::npos;) {
    const std::size_t dot = path.rfind('.', end - 1);
    auto mapping = std::make_shared<YamlNode>();
    mapping->kind = YamlNode::Kind::mapping;
    mapping->where = value->where;
    const std::size_t begin = dot == std::string::npos ? 0 : dot + 1;
    mapping->entries.push_back({path.substr(begin, end - begin), value->where, value});
    value = mapping;
    end = dot;
  }
  return layer(tree, value);
}

}  // namespace hysparse
