#include "launch/checkpoint_source.h"

#include "checkpoint/reader.h"
#include "launch/config.h"

namespace hysparse {
namespace {

class CheckpointSource final : public ModelSource {
 public:
  explicit CheckpointSource(const std::string& path) {
    directory_ = resolve_checkpoint(path, &warnings_);
    CheckpointReader reader(directory_);
    const RunConfig run =
        config_from_text(reader.info().config, directory_ + "/manifest.json: config", std::nullopt);
    config_ = run.model;
    max_position_embeddings_ = run.train.seq_len;
    description_ = fmt::format("checkpoint {}, step {}", directory_, reader.info().step);
  }

  void load(ParameterSet& parameters) const override {
    CheckpointReader reader(directory_);
    std::vector<TensorInfo> expected;
    for (const ParameterDeclaration& d : parameters.declarations())
      expected.push_back({d.name, d.shape, parameters.dtype()});
    reader.require(expected);
    for (const ParameterSet::Entry& e : parameters.entries())
      reader.read(e.declaration.name, e.box, e.parameter.value);
  }

 private:
  std::string directory_;
};

}  // namespace

std::unique_ptr<ModelSource> open_checkpoint_source(const std::string& path) {
  return std::make_unique<CheckpointSource>(path);
}

}  // namespace hysparse
