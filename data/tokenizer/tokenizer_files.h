/// Files around a tokenizer.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace hysparse {

/// Which token ends a document: by name, by id, or neither: the tokenizer looks for a well-known name.
struct EosChoice {
  std::string token;
  std::optional<std::int32_t> id;
};

/// The tokenizer.json that `name` means: itself, or the one in that directory. Throws Error.
std::string find_tokenizer_json(const std::string& name);

/// A whole file. Throws Error when it cannot be read or is longer than `limit`.
std::string read_limited(const std::string& path, std::int64_t limit);

/// What tokenizer_config.json, generation_config.json or config.json in the directory of `path` say. Throws
/// Error when one of them is damaged.
EosChoice eos_beside(const std::string& path);

}  // namespace hysparse
