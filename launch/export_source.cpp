#include "launch/export_source.h"

#include <algorithm>
#include <filesystem>

#include "checkpoint/file.h"
#include "checkpoint/region.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "export/format.h"
#include "export/tokenizer_files.h"
#include "parallel/box.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t max_config_bytes = 16 << 20;

class ExportSource final : public ModelSource {
 public:
  explicit ExportSource(const std::string& directory) : weights_(directory), directory_(directory) {
    const std::string file = (fs::path(directory) / "config.json").string();
    const std::string text = read_text_file(file, max_config_bytes);
    format_ = format_of_config(text, file);
    const ExportedWeights shapes{[&](const std::string& name) -> std::optional<std::vector<std::int64_t>> {
      const SafetensorsEntry* e = weights_.find(name);
      if (e == nullptr) return std::nullopt;
      return std::vector<std::int64_t>(e->shape.begin(), e->shape.end());
    }};
    config_ = config_from_class_json(format_, text, file, shapes);
    max_position_embeddings_ = max_positions_from_json(text);
    description_ = fmt::format("export {}", directory);
    tokenizer_ = tokenizer_of_directory(directory);
    require(declare_parameters(config_, {}), "config.json calls for");
  }

  void load(ParameterSet& parameters) const override {
    require(parameters.declarations(), "the model has");
    for (const ParameterSet::Entry& e : parameters.entries()) {
      const SourceRead read{&e.declaration, e.box, e.parameter.value};
      this->read({&read, 1});
    }
  }

  void read(std::span<const SourceRead> reads) const override {
    for (const SourceRead& r : reads) read_one(r);
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
    const std::string name = class_tensor_name(format_, e.name);
    const SafetensorsEntry* found = weights_.find(name);
    if (found == nullptr)
      return fmt::format("{}: no tensor {} {}, which {}", directory_, name, e.shape.str(), who);
    if (found->shape == e.shape) return "";
    return fmt::format("{}: {} has shape {}, {} {}", weights_.file_of(*found), name, found->shape.str(), who,
                       e.shape.str());
  }

  void read_one(const SourceRead& r) const {
    const ParameterDeclaration& d = *r.declaration;
    if (!d.stacked_experts) return read_box(d.name, r.box, r.out);
    const Box one{without_first(r.box.offset), without_first(r.box.shape)};
    const Tensor experts = r.out.view(r.box.shape);
    for (std::int64_t e = 0; e < r.box.shape[0]; ++e) {
      read_box(expert_name(d.name, r.box.offset[0] + e), one, experts.slice(e, e + 1));
    }
  }

  /// The rows that hold the box, then the box of them.
  void read_box(const std::string& ours, const Box& box, const Tensor& out) const {
    const std::int64_t begin = box.offset[0];
    const Tensor rows =
        weights_.read_rows(class_tensor_name(format_, ours), begin, begin + box.shape[0], out.dtype());
    Box inside = box;
    inside.offset.set(0, 0);
    dispatch_float(out.dtype(), [&]<class T>() {
      for_each_run(whole_box(rows.shape()), inside, inside, [&](const ElementRun& run) {
        std::copy_n(rows.data<T>() + run.source, run.count, out.data<T>() + run.target);
      });
    });
  }

  SafetensorsReader weights_;
  std::string directory_;
  ExportFormat format_ = ExportFormat::hysparse;
};

}  // namespace

std::unique_ptr<ModelSource> open_export_source(const std::string& directory) {
  return std::make_unique<ExportSource>(directory);
}

}  // namespace hysparse
