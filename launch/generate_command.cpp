// `hysparse generate`: continues a prompt with a bounded key/value cache.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include <unistd.h>

#include "core/random.h"
#include "data/stream_decoder.h"
#include "data/tokenizer.h"
#include "launch/commands.h"
#include "launch/loaded_model.h"
#include "model/decoder.h"

namespace hysparse {
namespace {

/// The likeliest token at temperature 0, else one drawn from softmax(logits / temperature) by the uniform
/// number u.
std::int32_t choose(const Tensor& logits, double temperature, double u) {
  const float* l = logits.data<float>();
  const std::int64_t best = std::max_element(l, l + logits.numel()) - l;
  if (temperature == 0.0) return static_cast<std::int32_t>(best);
  double total = 0;
  const auto weight = [&](std::int64_t i) {
    return std::exp((static_cast<double>(l[i]) - l[best]) / temperature);
  };
  for (std::int64_t i = 0; i < logits.numel(); ++i) total += weight(i);
  double left = u * total;
  for (std::int64_t i = 0; i < logits.numel(); ++i) {
    left -= weight(i);
    if (left < 0) return static_cast<std::int32_t>(i);
  }
  return static_cast<std::int32_t>(best);
}

/// The cache is allocated whole: refuses one that this machine cannot hold.
void require_memory(const ModelConfig& config, std::int64_t tokens, std::int64_t max_tokens) {
  const std::int64_t bytes = kv_report(config, tokens, DType::f32).total_bytes;
  const std::int64_t machine = std::int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  if (bytes <= machine) return;
  throw_error("--max-tokens: {}: their keys and values take {} bytes, this machine has {}", max_tokens, bytes,
              machine);
}

void print_report(const ModelConfig& config, std::int64_t tokens, std::int64_t measured) {
  const KvReport report = kv_report(config, tokens, DType::f32);
  fmt::print("\nkey/value cache at {} tokens, f32:\n", tokens);
  for (const auto& [type, kind] : report.kinds) {
    fmt::print("  {:<18} {:>4} layers {:>14} bytes\n", layer_type_name(type), kind.layers, kind.bytes);
  }
  fmt::print("  {:<18} {:>4}        {:>14} bytes ({} allocated)\n", "together", "", report.total_bytes,
             measured);
  fmt::print("  {:<18} {:>4} layers {:>14} bytes, {:.2f} times as much\n", "all layers full",
             config.num_layers(), report.full_attention_bytes,
             static_cast<double>(report.full_attention_bytes) /
                 static_cast<double>(std::max<std::int64_t>(1, report.total_bytes)));
}

}  // namespace

int run_generate(Runtime& runtime, const GenerateOptions& options) {
  require_one_rank(runtime, "generate");
  if (options.max_tokens < 1) throw_error("--max-tokens: {}: must be at least 1", options.max_tokens);
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    throw_error("--temperature: {}: must be 0 or a positive number", options.temperature);
  }
  LoadedModel loaded(options.model, DType::f32, false);
  const ModelConfig& config = loaded.source().config();
  const auto tokenizer = make_tokenizer(loaded.source().tokenizer());
  std::vector<std::int32_t> prompt = tokenizer->encode(options.prompt);
  if (prompt.empty()) prompt.push_back(tokenizer->eos_id());  // an empty prompt: the start of a document
  if (std::any_of(prompt.begin(), prompt.end(), [&](std::int32_t id) { return id >= config.vocab_size; })) {
    throw_error("--prompt: has ids beyond the model's vocabulary of {} (tokenizer {})", config.vocab_size,
                tokenizer->name());
  }

  const auto capacity = static_cast<std::int64_t>(prompt.size()) + options.max_tokens;
  require_memory(config, capacity, options.max_tokens);
  Decoder decoder(loaded.model(), loaded.stream(), DType::f32, capacity);
  Tensor logits;
  for (const std::int32_t id : prompt) logits = decoder.step(id);

  StreamDecoder text(*tokenizer);
  fmt::print("{}", options.prompt);
  const CounterRandom random(options.seed, "generate");
  for (std::int64_t i = 0; i < options.max_tokens; ++i) {
    const std::int32_t id = choose(logits, options.temperature, random.uniform(static_cast<std::uint64_t>(i)));
    if (id == tokenizer->eos_id()) break;
    fmt::print("{}", text.push(id));
    std::fflush(stdout);
    if (i + 1 < options.max_tokens) logits = decoder.step(id);
  }
  fmt::print("{}\n", text.finish());
  if (options.report_kv) print_report(config, decoder.tokens(), decoder.cache_bytes());
  return 0;
}

}  // namespace hysparse
