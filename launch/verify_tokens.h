/// Tokens for `hysparse verify` when the config names no data.
#pragma once

#include <cstdint>
#include <string>

namespace hysparse {

/// Writes a token file of at least `tokens` random tokens of a vocabulary, the small ids more often than the
/// large ones, in documents of uneven length; always the same for the same arguments.
void write_random_tokens(const std::string& path, std::int64_t vocab_size, std::int64_t tokens);

}  // namespace hysparse
