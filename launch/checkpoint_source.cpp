#include "launch/checkpoint_source.h"

#include <algorithm>

#include "checkpoint/reader.h"
#include "core/thread_pool.h"
#include "launch/config.h"
#include "launch/run_tokenizer.h"

namespace hysparse {
namespace {

class CheckpointSource final : public ModelSource {
 public:
  explicit CheckpointSource(const std::string& path)
      : path_(path), step_directory_given_(is_step_directory(path)) {
    directory_ = resolve_checkpoint(path, &warnings_);
    CheckpointReader reader(directory_);
    const RunConfig run =
        config_from_text(reader.info().config, directory_ + "/manifest.json: config", std::nullopt);
    config_ = run.model;
    max_position_embeddings_ = run.train.seq_len;
    description_ = fmt::format("checkpoint {}, step {}", directory_, reader.info().step);
    tokenizer_ = tokenizer_of_run(directory_, reader.info().data_state);
  }

  void load(ParameterSet& parameters) const override {
    CheckpointReader reader(directory_, reader_threads());
    std::vector<TensorInfo> expected;
    for (const ParameterDeclaration& d : parameters.declarations())
      expected.push_back({d.name, d.shape, parameters.dtype()});
    reader.require(expected);
    std::vector<ReadRequest> requests;
    for (const ParameterSet::Entry& e : parameters.entries())
      requests.push_back({e.declaration.name, e.box, e.parameter.value});
    read_from(reader, requests);
  }

  void read(std::span<const SourceRead> reads) const override {
    if (!reader_) reader_ = std::make_unique<CheckpointReader>(directory_, reader_threads());
    std::vector<ReadRequest> requests;
    for (const SourceRead& r : reads) requests.push_back({r.declaration->name, r.box, r.out});
    read_from(*reader_, requests);
  }

 private:
  static int reader_threads() {
    constexpr int most_threads = 4;
    return std::min(default_thread_count(1), most_threads);
  }

  void read_from(CheckpointReader& reader, const std::vector<ReadRequest>& requests) const {
    try {
      reader.read(requests);
    } catch (const DamagedCheckpoint& damage) {
      throw_error("{}{}", damage.what(), other_step());
    }
  }

  /// Which step of the run to take instead: that is for the user to decide.
  std::string other_step() const {
    if (step_directory_given_) return "";
    const std::vector<StepState> steps = list_checkpoints(path_);
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      if (step->directory != directory_ && step->fault.empty())
        return fmt::format("; {} is the newest step beside it", step->directory);
    }
    return "";
  }

  std::string path_;
  bool step_directory_given_;
  std::string directory_;
  mutable std::unique_ptr<CheckpointReader> reader_;  // of read(): opened once
};

}  // namespace

std::unique_ptr<ModelSource> open_checkpoint_source(const std::string& path) {
  return std::make_unique<CheckpointSource>(path);
}

}  // namespace hysparse
