#include "launch/generation.h"

#include <algorithm>
#include <chrono>
#include <list>
#include <numeric>

#include "core/random.h"
#include "data/stream_decoder.h"
#include "launch/stop_text.h"
#include "model/decoder.h"

namespace hysparse {
namespace {

using Ids = std::vector<std::int32_t>;

/// The last token chosen is not fed back: its keys and values are never needed.
std::int64_t capacity_of(const Ids& prompt, const GenerationConfig& config) {
  return static_cast<std::int64_t>(prompt.size()) + config.max_tokens - 1;
}

std::uint64_t hash_of(const Ids& prompt) {
  return hash_name({reinterpret_cast<const char*>(prompt.data()), prompt.size() * sizeof(std::int32_t)});
}

/// A prompt on its way.
class Sequence {
 public:
  Sequence(std::size_t place, const Ids& prompt, const ModelConfig& model, DType dtype, Device device,
           const Tokenizer& tokenizer, const GenerationConfig& config)
      : index(place),
        cache(model, capacity_of(prompt, config), dtype, device),
        tokenizer_(tokenizer),
        config_(config),
        choice_(config.choice, model.vocab_size),
        random_(config.seed, fmt::format("generate {:016x}", hash_of(prompt))),
        text_(tokenizer),
        stop_(config.stop) {
    choice_.add(prompt);
  }

  /// Chooses from the logits [V]; returns the text that can be shown, and sets `done` at the end.
  std::string take(std::span<const double> logits) {
    const std::int32_t id = choice_.choose(logits, random_.uniform(result.tokens.size()));
    if (id == tokenizer_.eos_id() && !config_.ignore_eos) return finish(GenerationEnd::eos);
    result.tokens.push_back(id);
    choice_.add({&id, 1});
    // A model may have more ids than the tokenizer: they stand for nothing.
    std::string shown = id < tokenizer_.vocab_size() ? stop_.push(text_.push(id)) : std::string();
    if (stop_.stopped()) {
      shown += finish(GenerationEnd::stop);
    } else if (static_cast<std::int64_t>(result.tokens.size()) == config_.max_tokens) {
      shown += finish(GenerationEnd::length);
    }
    return shown;
  }
  Decoder::Piece next() { return {&cache, {&result.tokens.back(), 1}}; }

  const std::size_t index;
  KvCache cache;
  Continuation result;
  bool done = false;

 private:
  std::string finish(GenerationEnd end) {
    done = true;
    result.end = end;
    std::string rest = stop_.push(text_.finish());
    if (stop_.stopped()) {
      result.end = GenerationEnd::stop;
      return rest;
    }
    return rest + stop_.finish();
  }

  const Tokenizer& tokenizer_;
  const GenerationConfig& config_;
  TokenChoice choice_;
  CounterRandom random_;
  StreamDecoder text_;
  StopText stop_;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string generation_end_name(GenerationEnd end) {
  if (end == GenerationEnd::eos) return "eos";
  return end == GenerationEnd::stop ? "stop" : "length";
}

std::int64_t generation_cache_bytes(const ModelConfig& model, DType dtype, const std::vector<Ids>& prompts,
                                    const GenerationConfig& config) {
  std::vector<std::int64_t> bytes;
  for (const Ids& prompt : prompts)
    bytes.push_back(kv_report(model, capacity_of(prompt, config), dtype).total_bytes);
  std::sort(bytes.rbegin(), bytes.rend());
  bytes.resize(std::min(bytes.size(), static_cast<std::size_t>(config.batch_size)));
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

Generation generate(const Model& model, const Stream& stream, DType dtype, const Tokenizer& tokenizer,
                    const std::vector<Ids>& prompts, const GenerationConfig& config,
                    const std::function<void(std::size_t, std::string_view)>& on_text) {
  const Decoder decoder(model, stream);
  Generation generation;
  generation.continuations.resize(prompts.size());
  const auto take = [&](Sequence& s, const Tensor& row) {
    const std::string text = s.take(row.to_vector<double>());
    s.result.text += text;
    if (on_text && !text.empty()) on_text(s.index, text);
    if (!s.done) return;
    s.result.cached_tokens = s.cache.tokens();
    s.result.cache_capacity = s.cache.capacity();
    s.result.cache = s.cache.measure();
    generation.continuations[s.index] = std::move(s.result);
  };
  const auto on_host = [](const Tensor& logits) { return logits.to_device(Device{}).to(DType::f64); };

  std::list<Sequence> active;
  for (std::size_t next = 0; next < prompts.size() || !active.empty();) {
    const double begin = now();
    while (next < prompts.size() && static_cast<std::int64_t>(active.size()) < config.batch_size) {
      const Ids& prompt = prompts[next];
      Sequence& s =
          active.emplace_back(next++, prompt, model.config(), dtype, stream.device, tokenizer, config);
      const Tensor logits = on_host(decoder.prefill(s.cache, prompt, config.prefill_chunk));
      take(s, logits);
      generation.prefill_tokens += static_cast<std::int64_t>(prompt.size());
      if (s.done) active.pop_back();
    }
    const double read = now();
    generation.prefill_seconds += read - begin;
    if (active.empty()) continue;
    std::vector<Decoder::Piece> pieces;
    for (Sequence& s : active) pieces.push_back(s.next());
    const Tensor logits = on_host(decoder.forward(pieces));
    std::int64_t row = 0;
    for (Sequence& s : active) {
      take(s, logits.slice(row, row + 1));
      ++row;
    }
    active.remove_if([](const Sequence& s) { return s.done; });
    generation.decode_tokens += row;
    generation.decode_seconds += now() - read;
  }
  return generation;
}

}  // namespace hysparse
