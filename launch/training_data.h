/// The data of a training run: the shuffled training windows of this rank, and the validation windows.
#pragma once

#include <memory>

#include "data/loader.h"
#include "data/sampler.h"
#include "data/token_file.h"
#include "launch/run_config.h"
#include "parallel/communicator.h"

namespace hysparse {

class TrainingData {
 public:
  /// Opens and checks the files. Throws Error, naming key and file, for a file that is missing, foreign,
  /// shorter than a window, or that holds ids the model's vocabulary does not.
  TrainingData(const RunConfig& config, int dp_rank, int dp_size);

  Loader& train() { return loader_; }
  /// Null without data.valid.
  SequentialWindows* valid() { return valid_windows_.get(); }
  const TokenFileInfo& info() const { return train_.info(); }
  const TokenFile& train_file() const { return train_; }

 private:
  TokenFile train_;
  TokenSampler sampler_;
  Loader loader_;
  std::unique_ptr<TokenFile> valid_;
  std::unique_ptr<SequentialWindows> valid_windows_;
};

}  // namespace hysparse
