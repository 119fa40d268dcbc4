#include "launch/training_data.h"

#include <algorithm>
#include <set>

#include "launch/user_input.h"

namespace hysparse {
namespace {

using Sources = std::vector<RunConfig::DataSource>;
using Files = std::vector<std::unique_ptr<TokenDataset>>;

std::vector<double> weights_of(const Sources& sources) {
  std::vector<double> weights;
  for (const RunConfig::DataSource& source : sources) weights.push_back(source.weight);
  return weights;
}

/// Opens a token file that the model can read.
std::unique_ptr<TokenDataset> open_for(const RunConfig& config, const std::string& path, const char* key) {
  auto file = with_key(key, [&] { return open_token_dataset(path, {.vocab_size = config.model.vocab_size}); });
  if (file->info().vocab_size > config.model.vocab_size) {
    throw_error("model.vocab_size: {}: smaller than the vocabulary of {} ({}: {} ids, tokenizer {})",
                config.model.vocab_size, key, path, file->info().vocab_size, file->info().tokenizer);
  }
  return file;
}

Files open_all(const RunConfig& config, const Sources& sources, const char* key) {
  Files files;
  std::set<std::string> paths;
  for (const RunConfig::DataSource& source : sources) {
    if (!paths.insert(source.path).second) {
      throw_error(
          "{}: {}: given twice, and would give each sample twice: give it once, with the sum of the weights",
          key, source.path);
    }
    files.push_back(open_for(config, source.path, key));
  }
  return files;
}

/// Takes over what a file says of its tokenizer; throws Error when another file, which `said` remembers, says
/// otherwise. Files that say nothing fit all.
class SameTokenizer {
 public:
  void check(const TokenDataset& file, const char* key) {
    const TokenFileInfo& info = file.info();
    compare(hash_, info.tokenizer_hash.empty() ? std::nullopt : std::optional(info.tokenizer_hash), file, key,
            "tokenizer", fmt::format("{} ({})", info.tokenizer, info.tokenizer_hash));
    compare(vocabulary_, info.vocab_size == 0 ? std::nullopt : std::optional(info.vocab_size), file, key,
            "vocabulary", fmt::format("{} ids", info.vocab_size));
    if (info_.tokenizer_hash.empty() && !info.tokenizer_hash.empty()) info_ = info;
    if (info_.vocab_size == 0) info_.vocab_size = info.vocab_size;
  }
  const TokenFileInfo& info() const { return info_; }

 private:
  template <class T>
  struct Said {
    std::optional<T> value;
    std::string text, path;
  };

  template <class T>
  static void compare(Said<T>& said, const std::optional<T>& value, const TokenDataset& file, const char* key,
                      const char* what, const std::string& text) {
    if (!value) return;
    if (!said.value) {
      said = {value, text, file.path()};
    } else if (*said.value != *value) {
      throw_error("{}: {}: its {} is {}, that of {} is {}: all data of a run must have the same", key,
                  file.path(), what, text, said.path, said.text);
    }
  }

  Said<std::string> hash_;
  Said<std::int64_t> vocabulary_;
  TokenFileInfo info_{.tokenizer = "", .tokenizer_hash = "", .vocab_size = 0, .eos_id = -1, .command = ""};
};

TokenFileInfo require_same_tokenizer(const Files& train, const Files& valid) {
  SameTokenizer same;
  for (const auto& file : train) same.check(*file, "data.train");
  const TokenFileInfo info = same.info();
  for (const auto& file : valid) same.check(*file, "data.valid");
  return info;
}

template <class Windows, class... Args>
std::unique_ptr<WindowSource> windows_of(const Files& files, const Sources& sources, Args... args) {
  std::vector<std::unique_ptr<WindowSource>> windows;
  for (const auto& file : files) windows.push_back(std::make_unique<Windows>(*file, args...));
  if (windows.size() == 1) return std::move(windows.front());
  return std::make_unique<BlendedWindows>(std::move(windows), weights_of(sources));
}

}  // namespace

TrainingData::TrainingData(const RunConfig& config, int dp_rank, int dp_size)
    : train_sources_(config.data.train),
      train_files_(open_all(config, config.data.train, "data.train")),
      valid_files_(open_all(config, config.data.valid, "data.valid")),
      info_(require_same_tokenizer(train_files_, valid_files_)),
      train_(with_key("data.train",
                      [&] {
                        return windows_of<TokenSampler>(train_files_, config.data.train, config.train.seq_len,
                                                        static_cast<std::uint64_t>(config.run.seed));
                      })),
      blend_(with_key("data.train", [&] { return Blend(weights_of(config.data.train)); })),
      loader_(*train_, {config.train.global_batch_size, config.train.micro_batch_size, dp_rank, dp_size,
                        config.data.document_mask}) {
  if (valid_files_.empty()) return;
  with_key("data.valid", [&] {
    // Evaluation, where ranks work together, is no place to find a bad id.
    for (const auto& file : valid_files_) check_ids(*file);
    valid_ = windows_of<SequentialWindows>(valid_files_, config.data.valid, config.train.seq_len);
  });
}

void TrainingData::start(std::int64_t consumed_samples, std::int64_t steps) {
  prefetcher_ = std::make_unique<Prefetcher>(loader_, consumed_samples, steps);
}

StepBatch TrainingData::next() {
  HYSPARSE_CHECK(prefetcher_ != nullptr, "not started");
  return with_key("data.train", [&] { return prefetcher_->next(); });
}

std::vector<SourcePosition> TrainingData::positions(std::int64_t consumed_samples) {
  const std::vector<std::int64_t> samples = blend_.samples(consumed_samples);
  std::vector<SourcePosition> positions;
  for (std::size_t k = 0; k < train_files_.size(); ++k) {
    const TokenDataset& file = *train_files_[k];
    positions.push_back({train_sources_[k].path, train_sources_[k].weight, file.num_tokens(),
                         file.num_documents(), samples[k]});
  }
  return positions;
}

}  // namespace hysparse
