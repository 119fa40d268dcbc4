/// Continues prompts, several at a time, with bounded caches.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "model/token_choice.h"

namespace hysparse {

struct GenerationConfig {
  TokenChoiceConfig choice;
  std::uint64_t seed = 0;
  std::int64_t max_tokens = 128;     ///< per prompt
  std::int64_t prefill_chunk = 512;  ///< tokens of a prompt that are read at once
  std::int64_t batch_size = 8;       ///< prompts at a time; the next begins where one ends
  bool ignore_eos = false;           ///< go on behind the end of the document
  std::vector<std::string> stop;     ///< texts that end a continuation, none empty
};

enum class GenerationEnd { eos, stop, length };
/// "eos", "stop", "length".
std::string generation_end_name(GenerationEnd end);

/// One prompt's.
struct Continuation {
  std::vector<std::int32_t> tokens;  ///< the eos that ended it is left out
  std::string text;                  ///< up to the stop text
  GenerationEnd end = GenerationEnd::length;
  std::int64_t cached_tokens = 0;   ///< tokens whose keys and values were kept at the end
  std::int64_t cache_capacity = 0;  ///< and those there was room for: prompt + max_tokens - 1
  KvReport cache;                   ///< what its cache took, from the tensors
};

struct Generation {
  std::vector<Continuation> continuations;  ///< one per prompt, in order
  /// Tokens that went through the model, and how long that took, choosing the next ones included.
  std::int64_t prefill_tokens = 0, decode_tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
};

/// Each prompt (ids below the model's vocabulary, at least one) is continued to its end. Random numbers are a
/// function of the seed, the prompt's ids and the place of the token: what the other prompts are, and how many
/// go together, changes no more than rounding does. `on_text` (may be empty) gets each prompt's text as it
/// comes; its pieces are whole characters.
Generation generate(const Model& model, const Stream& stream, DType dtype, const Tokenizer& tokenizer,
                    const std::vector<std::vector<std::int32_t>>& prompts, const GenerationConfig& config,
                    const std::function<void(std::size_t prompt, std::string_view text)>& on_text = {});

/// Most bytes of keys and values at a time.
std::int64_t generation_cache_bytes(const ModelConfig& model, DType dtype,
                                    const std::vector<std::vector<std::int32_t>>& prompts,
                                    const GenerationConfig& config);

}  // namespace hysparse
