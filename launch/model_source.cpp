#include "launch/model_source.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "checkpoint/region.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "launch/checkpoint_source.h"
#include "model/export_names.h"
#include "model/hf_config.h"
#include "parallel/box.h"

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
    require(declare_parameters(config_, {}), "config.json calls for");
  }

  void load(ParameterSet& parameters) const override {
    require(parameters.declarations(), "the model has");
    for (const ParameterSet::Entry& entry : parameters.entries()) {
      for (const ExportName& e : export_names({&entry.declaration, 1})) load_one(entry, e);
    }
  }

 private:
  /// Throws Error unless every tensor is there in its shape: one problem, the first that does not fit, and how
  /// many more. `who` has declared them.
  void require(const std::vector<ParameterDeclaration>& declarations, const std::string& who) const {
    std::string first;
    std::int64_t count = 0;
    for (const ParameterDeclaration& d : declarations) {
      // A number of experts that only config.json knows must not become that many names.
      if (d.stacked_experts && d.shape[0] > static_cast<std::int64_t>(weights_.entries().size())) {
        throw_error("{}: holds {} tensors, fewer than the {} experts that {}", directory_,
                    weights_.entries().size(), d.shape[0], who);
      }
      for (const ExportName& e : export_names({&d, 1})) {
        const std::string problem = problem_of(e, who);
        if (!problem.empty() && ++count == 1) first = problem;
      }
    }
    if (count == 0) return;
    throw_error("{}{}", first, count > 1 ? fmt::format(" (and {} more tensors do not fit)", count - 1) : "");
  }

  std::string problem_of(const ExportName& e, const std::string& who) const {
    const SafetensorsEntry* found = weights_.find(e.name);
    if (found == nullptr)
      return fmt::format("{}: no tensor {} {}, which {}", directory_, e.name, e.shape.str(), who);
    if (found->shape == e.shape) return "";
    return fmt::format("{}: {} has shape {}, {} {}", weights_.file_of(*found), e.name, found->shape.str(), who,
                       e.shape.str());
  }

  /// This rank's box of the parameter (or of one expert of it).
  void load_one(const ParameterSet::Entry& entry, const ExportName& e) const {
    const Tensor& value = entry.parameter.value;
    if (e.expert < 0) return copy_box(weights_.read(e.name, value.dtype()), entry.box, value);
    const std::int64_t local = e.expert - entry.box.offset[0];
    if (local < 0 || local >= entry.box.shape[0]) return;
    const Box box{without_first(entry.box.offset), without_first(entry.box.shape)};
    copy_box(weights_.read(e.name, value.dtype()), box, value.slice(local, local + 1).view(box.shape));
  }

  static void copy_box(const Tensor& whole, const Box& box, const Tensor& out) {
    dispatch_float(out.dtype(), [&]<class T>() {
      for_each_run(whole_box(whole.shape()), box, box, [&](const ElementRun& run) {
        std::copy_n(whole.data<T>() + run.source, run.count, out.data<T>() + run.target);
      });
    });
  }

  SafetensorsReader weights_;
  std::string directory_;
};

}  // namespace

std::unique_ptr<ModelSource> ModelSource::open(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    throw_error("{}: {}; give an export, a step directory or a run directory", path,
                fs::exists(path, error) ? "not a directory" : "no such directory");
  }
  const fs::path directory = path;
  if (fs::exists(directory / "config.json", error)) return std::make_unique<ExportSource>(path);
  if (fs::exists(directory / "model.safetensors", error) ||
      fs::exists(directory / "model.safetensors.index.json", error)) {
    throw_error("{}: an export without its config.json", path);
  }
  return open_checkpoint_source(path);
}

}  // namespace hysparse
