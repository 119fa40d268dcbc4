#include "launch/model_source.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "launch/checkpoint_source.h"
#include "model/export_names.h"
#include "model/hf_config.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) throw_error("{}: cannot be read", path.string());
  return text.str();
}

/// An export directory: config.json and safetensors.
class ExportSource final : public ModelSource {
 public:
  explicit ExportSource(const std::string& directory) : weights_(directory) {
    const std::string file = (fs::path(directory) / "config.json").string();
    const ExportedWeights shapes{[&](const std::string& name) -> std::optional<std::vector<std::int64_t>> {
      const SafetensorsEntry* e = weights_.find(name);
      if (e == nullptr) return std::nullopt;
      return std::vector<std::int64_t>(e->shape.begin(), e->shape.end());
    }};
    const std::string text = read_text(file);
    config_ = model_config_from_json(text, file, shapes);
    max_position_embeddings_ = max_positions_from_json(text);
    description_ = fmt::format("export {}", directory);
    directory_ = directory;
    std::vector<std::string> problems;
    for (const ExportName& e : export_names(declare_parameters(config_, {}))) {
      if (auto problem = problem_of(e)) problems.push_back(*problem);
      if (problems.size() == most_problems) break;
    }
    if (!problems.empty()) throw Error(problems);
  }

  void load(ParameterSet& parameters) const override {
    for (const ParameterSet::Entry& entry : parameters.entries()) {
      for (const ExportName& e : export_names({&entry.declaration, 1})) load_one(entry, e);
    }
  }

 private:
  static constexpr std::size_t most_problems = 8;

  std::optional<std::string> problem_of(const ExportName& e) const {
    const SafetensorsEntry* found = weights_.find(e.name);
    if (found == nullptr)
      return fmt::format("{}: no tensor {}, which config.json calls for", directory_, e.name);
    if (found->shape == e.shape) return std::nullopt;
    return fmt::format("{}: {} has shape {}, config.json calls for {}", weights_.file_of(*found), e.name,
                       found->shape.str(), e.shape.str());
  }

  /// The parameter (or one expert of it) where its box says so; dims other than the first are whole in every
  /// layout so far.
  void load_one(const ParameterSet::Entry& entry, const ExportName& e) const {
    const DType dtype = entry.parameter.value.dtype();
    if (e.expert < 0) {
      HYSPARSE_CHECK(entry.box.shape == entry.declaration.shape, "{} is split: {}", e.name,
                     entry.box.shape.str());
      entry.parameter.value.copy_from(weights_.read(e.name, dtype));
      return;
    }
    const std::int64_t local = e.expert - entry.box.offset[0];
    if (local < 0 || local >= entry.box.shape[0]) return;
    entry.parameter.value.slice(local, local + 1).view(e.shape).copy_from(weights_.read(e.name, dtype));
  }

  SafetensorsReader weights_;
  std::string directory_;
};

}  // namespace

std::unique_ptr<ModelSource> ModelSource::open(const std::string& path) {
  if (!fs::is_directory(path))
    throw_error("{}: no such directory; give an export, a step directory or a run directory", path);
  if (fs::exists(fs::path(path) / "config.json")) return std::make_unique<ExportSource>(path);
  return open_checkpoint_source(path);
}

}  // namespace hysparse
