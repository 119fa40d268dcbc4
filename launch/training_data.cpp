#include "launch/training_data.h"

#include "launch/user_input.h"

namespace hysparse {
namespace {

/// Opens a token file that the model can read.
TokenFile open_for(const RunConfig& config, const std::string& path, const char* key) {
  TokenFile file = with_key(key, [&] { return TokenFile(path); });
  if (file.info().vocab_size > config.model.vocab_size) {
    throw_error("model.vocab_size: {}: smaller than the vocabulary of {} ({}: {} ids, tokenizer {})",
                config.model.vocab_size, key, path, file.info().vocab_size, file.info().tokenizer);
  }
  return file;
}

}  // namespace

TrainingData::TrainingData(const RunConfig& config, int dp_rank, int dp_size)
    : train_(open_for(config, config.data.train.front().path, "data.train")),
      sampler_(with_key("data.train",
                        [&] {
                          return TokenSampler(train_, config.train.seq_len,
                                              static_cast<std::uint64_t>(config.run.seed));
                        })),
      loader_(sampler_, {config.train.global_batch_size, config.train.micro_batch_size, dp_rank, dp_size}) {
  if (!config.data.valid) return;
  valid_ = std::make_unique<TokenFile>(open_for(config, *config.data.valid, "data.valid"));
  with_key("data.valid", [&] {
    check_ids(*valid_);  // evaluation, where ranks work together, is no place to find a bad one
    valid_windows_ = std::make_unique<SequentialWindows>(*valid_, config.train.seq_len);
  });
}

}  // namespace hysparse
