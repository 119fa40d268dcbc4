// `hysparse generate`: continues prompts with a bounded key/value cache.
#include <algorithm>
#include <cstdio>
#include <fstream>

#include <unistd.h>

#include "launch/commands.h"
#include "launch/config.h"
#include "launch/generate_report.h"
#include "launch/loaded_model.h"
#include "launch/run_device.h"

namespace hysparse {
namespace {

using Ids = std::vector<std::int32_t>;
using Json = nlohmann::ordered_json;

DType compute_dtype(const std::string& name) {
  if (name == "fp64") return DType::f64;
  if (name == "fp32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  throw_error("--dtype: {}: must be fp64, fp32 or bf16", name);
}

/// --prompt, then the lines of --prompts-file.
std::vector<std::string> all_prompts(const GenerateOptions& options) {
  std::vector<std::string> prompts = options.prompts;
  if (!options.prompts_file) return prompts;
  const std::string& path = *options.prompts_file;
  std::ifstream file(path, std::ios::binary);
  std::string line;
  const std::size_t before = prompts.size();
  while (std::getline(file, line)) {
    if (line.ends_with('\r')) line.pop_back();
    prompts.push_back(line);
  }
  if (file.bad() || !file.eof()) throw_error("--prompts-file: {}: cannot read it", path);
  if (prompts.size() == before) throw_error("--prompts-file: {}: holds no line", path);
  return prompts;
}

std::vector<Ids> encode_prompts(const std::vector<std::string>& prompts, const Tokenizer& tokenizer,
                                const ModelConfig& config) {
  std::vector<Ids> all;
  for (const std::string& prompt : prompts) {
    Ids& ids = all.emplace_back(tokenizer.encode(prompt));
    if (ids.empty()) ids.push_back(tokenizer.eos_id());  // no text: the start of a document
    const auto bad =
        std::find_if(ids.begin(), ids.end(), [&](std::int32_t id) { return id >= config.vocab_size; });
    if (bad == ids.end()) continue;
    throw_error("--prompt: number {} has token {}, the model's vocabulary has ids 0 to {} (tokenizer {})",
                all.size(), *bad, config.vocab_size - 1, tokenizer.name());
  }
  return all;
}

/// Caches are allocated whole: refuses ones that this machine cannot hold.
void require_memory(const LoadedModel& loaded, DType dtype, const std::vector<Ids>& prompts,
                    const GenerationConfig& config) {
  if (!loaded.stream().device.is_cpu()) return;
  const std::int64_t bytes = generation_cache_bytes(loaded.source().config(), dtype, prompts, config);
  const std::int64_t machine = std::int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  if (bytes <= machine) return;
  throw_error("--max-tokens: {}: their keys and values take {} bytes, this machine has {}", config.max_tokens,
              bytes, machine);
}

/// Positions that the model never saw give what they give: a warning.
void warn_of_length(const LoadedModel& loaded, const std::vector<Ids>& prompts,
                    const GenerationConfig& config) {
  std::size_t longest = 0;
  for (const Ids& prompt : prompts) longest = std::max(longest, prompt.size());
  const std::int64_t tokens = static_cast<std::int64_t>(longest) + config.max_tokens,
                     trained = loaded.source().max_position_embeddings();
  if (trained == 0 || tokens <= trained) return;
  fmt::print(stderr,
             "hysparse: warning: a prompt of {} tokens and --max-tokens {} may reach position {}; the model is "
             "made for {} (max_position_embeddings)\n",
             longest, config.max_tokens, tokens - 1, trained);
}

/// The model's sizes without its weights: of a config too.
ModelConfig config_alone(const std::string& path) {
  if (path.ends_with(".yaml") || path.ends_with(".yml")) return load_config(path, {}, std::nullopt).model;
  return ModelSource::open(path)->config();
}

Json speed_json(std::int64_t tokens, double seconds) {
  return {{"tokens", tokens},
          {"seconds", seconds},
          {"tokens_per_second", seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0}};
}

void print_json(const GenerateOptions& options, const LoadedModel& loaded, DType dtype,
                const std::vector<std::string>& texts, const std::vector<Ids>& prompts,
                const Generation& generation) {
  Json sequences = Json::array();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Continuation& c = generation.continuations[i];
    sequences.push_back({{"prompt", texts[i]},
                         {"prompt_tokens", prompts[i].size()},
                         {"text", c.text},
                         {"tokens", c.tokens},
                         {"end", generation_end_name(c.end)}});
  }
  Json j{{"model", loaded.source().description()},
         {"dtype", options.dtype},
         {"device", loaded.stream().device.is_cpu() ? "cpu" : "cuda"},
         {"sequences", sequences},
         {"prefill", speed_json(generation.prefill_tokens, generation.prefill_seconds)},
         {"decode", speed_json(generation.decode_tokens, generation.decode_seconds)}};
  if (options.report_kv) j["kv_cache"] = kv_json(loaded.source().config(), generation, dtype);
  // A prompt may hold any bytes.
  fmt::print("{}\n", j.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

int run_generate(Runtime& runtime, const GenerateOptions& options) {
  require_one_rank(runtime, "generate");
  const DType dtype = compute_dtype(options.dtype);
  if (options.kv_tokens) {
    const ModelConfig config = config_alone(options.model);
    if (options.json) {
      fmt::print("{}\n", kv_json(config, *options.kv_tokens, dtype).dump());
    } else {
      print_kv(config, *options.kv_tokens, dtype);
    }
    return 0;
  }
  const Device device = choose_device("--device", options.device, dtype);
  const std::vector<std::string> texts = all_prompts(options);
  LoadedModel loaded(options.model, dtype, false, device);
  const ModelConfig& config = loaded.source().config();
  const auto tokenizer = make_tokenizer(loaded.source().tokenizer());
  const std::vector<Ids> prompts = encode_prompts(texts, *tokenizer, config);
  require_memory(loaded, dtype, prompts, options.generation);
  warn_of_length(loaded, prompts, options.generation);

  const bool streaming = !options.json && prompts.size() == 1;
  if (streaming) fmt::print("{}", texts[0]);
  const auto show = [&](std::size_t, std::string_view text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  };
  const Generation generation =
      generate(loaded.model(), loaded.stream(), dtype, *tokenizer, prompts, options.generation,
               streaming ? show : std::function<void(std::size_t, std::string_view)>());
  if (options.json) {
    print_json(options, loaded, dtype, texts, prompts, generation);
    return 0;
  }
  if (streaming) fmt::print("\n");
  for (std::size_t i = 0; !streaming && i < texts.size(); ++i)
    fmt::print("==> {} <==\n{}{}\n", i + 1, texts[i], generation.continuations[i].text);
  if (options.report_kv) print_kv(config, generation, dtype);
  return 0;
}

}  // namespace hysparse
