/// The tokenizer's files of an export: tokenizer.json and tokenizer_config.json.
#pragma once

#include <string>

#include "data/tokenizer.h"

namespace hysparse {

/// The text of tokenizer_config.json; `max_tokens`: that the model was trained to see, 0 when not known.
std::string tokenizer_config_json(const Tokenizer& tokenizer, std::int64_t max_tokens);

/// Writes both files to `directory`. Throws Failure.
void write_tokenizer_files(const std::string& directory, const Tokenizer& tokenizer, std::int64_t max_tokens);

/// What Tokenizer::name() should be to make the tokenizer of an export or run directory again: "byte", the
/// directory, or "" when it holds none.
std::string tokenizer_of_directory(const std::string& directory);

}  // namespace hysparse
