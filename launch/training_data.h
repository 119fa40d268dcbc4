/// The data of a training run: the shuffled training windows of this rank, and the validation windows.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/prefetch.h"
#include "data/sampler.h"
#include "data/token_dataset.h"
#include "launch/run_config.h"

namespace hysparse {

/// Where a run is in one of its sources.
struct SourcePosition {
  std::string path;
  double weight = 1.0;
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
  std::int64_t samples = 0;  ///< windows used
};

class TrainingData {
 public:
  /// Opens and checks the files. Throws Error, naming key and file, for a file that is missing, foreign,
  /// shorter than a window, or that holds ids the model's vocabulary does not; for a file given twice, and for
  /// files of different tokenizers.
  TrainingData(const RunConfig& config, int dp_rank, int dp_size);

  /// Begins to load ahead, from the step before which `consumed_samples` windows were used, for `steps` steps.
  void start(std::int64_t consumed_samples, std::int64_t steps);
  /// The batches of the next step. Throws what loading them threw.
  StepBatch next();

  /// Null without data.valid.
  WindowSource* valid() { return valid_.get(); }
  /// Of the training files: what any of them says.
  const TokenFileInfo& info() const { return info_; }
  const TokenDataset& train_file() const { return *train_files_.front(); }
  /// After `consumed_samples` windows.
  std::vector<SourcePosition> positions(std::int64_t consumed_samples);
  /// Seconds that next() has waited.
  double waited_seconds() const { return prefetcher_ ? prefetcher_->waited_seconds() : 0.0; }

 private:
  using Files = std::vector<std::unique_ptr<TokenDataset>>;

  std::vector<RunConfig::DataSource> train_sources_;
  Files train_files_, valid_files_;
  TokenFileInfo info_;
  std::unique_ptr<WindowSource> train_, valid_;
  Blend blend_;  // for positions: the loader's own belongs to its thread
  Loader loader_;
  std::unique_ptr<Prefetcher> prefetcher_;
};

/// What a checkpoint's data_state says of the data after `consumed_samples` windows.
std::map<std::string, std::string> data_state(TrainingData& data, const RunConfig& config,
                                              std::int64_t consumed_samples);

/// Throws Error, naming key and file, when the run cannot go on from that state without another order of
/// samples: other sources, weights, seed or seq_len. `directory`: the checkpoint's, for messages. States from
/// before there were blends say nothing of the data and are accepted for a single source.
void require_same_data(TrainingData& data, const RunConfig& config,
                       const std::map<std::string, std::string>& state, const std::string& directory);

}  // namespace hysparse
