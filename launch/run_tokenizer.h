/// The tokenizer of a run travels with it: RUN/tokenizer holds its tokenizer.json, so that exports and generate
/// have it when the data files are gone.
#pragma once

#include <map>
#include <string>

#include "data/token_dataset.h"

namespace hysparse {

/// Puts the tokenizer that the training data names into RUN/tokenizer. Does nothing for the byte tokenizer,
/// which is built in, for data that names none, and when it is there already. Returns why it could not be kept
/// (its file is gone, or has other ids than when the data was made), "" otherwise: training needs no tokenizer.
/// Throws Failure when it cannot be written.
std::string keep_tokenizer(const std::string& run_directory, const TokenFileInfo& data);

/// What a checkpoint's data_state says of the tokenizer.
void add_tokenizer(const TokenFileInfo& data, std::map<std::string, std::string>& state);

/// The tokenizer of a step directory's run, as make_tokenizer() takes it: RUN/tokenizer, else what data_state
/// names; "" when that is not there. Checkpoints that say nothing are from before there were others than byte.
std::string tokenizer_of_run(const std::string& step_directory,
                             const std::map<std::string, std::string>& data_state);

}  // namespace hysparse
