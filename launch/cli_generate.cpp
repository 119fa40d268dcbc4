#include "launch/cli_generate.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hysparse {
namespace {

constexpr double no_bound = std::numeric_limits<double>::max();
constexpr double above_zero = std::numeric_limits<double>::min();
constexpr std::int64_t most_tokens = std::numeric_limits<std::int32_t>::max();

void sampling_options(Options& o, GenerationConfig& generation) {
  TokenChoiceConfig& choice = generation.choice;
  o.number("--temperature", choice.temperature, 0, no_bound, "a number of at least 0",
           "0: the likeliest token [0]");
  o.integer("--top-k", choice.top_k, 0, most_tokens, "sample from the N likeliest tokens; 0: from all [0]");
  o.number("--top-p", choice.top_p, above_zero, 1, "a number above 0, at most 1",
           "sample from the likeliest tokens that make up this share [1]");
  o.number("--min-p", choice.min_p, 0, 1, "a number from 0 to 1",
           "sample from tokens at least X times as likely as the likeliest [0]");
  o.number("--repetition-penalty", choice.repetition_penalty, above_zero, no_bound, "a positive number",
           "divide positive logits of tokens that were there by X, multiply others [1]");
  o.integer("--seed", generation.seed, 0, Options::no_limit, "of the sampling [0]");
}

/// Rules between options.
void check(Options& o, const GenerateOptions& generate) {
  const bool prompts = !generate.prompts.empty() || generate.prompts_file;
  if (generate.kv_tokens) {
    if (prompts) o.problem("--kv-tokens: says what a cache takes, and reads no prompt");
    if (!generate.report_kv) o.problem("--kv-tokens needs --report-kv");
  } else if (!prompts && o.sound()) {
    o.problem("--prompt TEXT is missing (or --prompts-file FILE)");
  }
  const auto& stop = generate.generation.stop;
  if (std::find(stop.begin(), stop.end(), "") != stop.end()) o.problem("--stop: must not be empty");
}

}  // namespace

ParsedCommand parse_generate(Options& o, const std::vector<std::string>& arguments) {
  GenerateOptions generate;
  GenerationConfig& generation = generate.generation;
  o.text("CHECKPOINT|EXPORT", "DIR", generate.model, "run directory (latest step), step directory or export",
         true);
  o.texts("--prompt", "TEXT", generate.prompts,
          "text to go on from (--prompt=TEXT when it begins with a dash); may be given several times");
  o.text("--prompts-file", "FILE", generate.prompts_file, "more prompts, one a line");
  o.integer("--max-tokens", generation.max_tokens, 1, most_tokens, "tokens to generate at most [128]");
  sampling_options(o, generation);
  o.texts("--stop", "TEXT", generation.stop, "end before this text; may be given several times");
  o.flag("--ignore-eos", generation.ignore_eos, "go on behind the end of the document");
  o.integer("--prefill-chunk", generation.prefill_chunk, 1, most_tokens,
            "tokens of a prompt to read at once [512]");
  o.integer("--batch-size", generation.batch_size, 1, most_tokens, "prompts to continue at a time [8]");
  o.choice("--dtype", {"fp64", "fp32", "bf16"}, generate.dtype, "compute dtype; fp64: CPU, bf16: GPU [fp32]");
  o.choice("--device", {"auto", "cpu", "cuda"}, generate.device, "auto: the GPU where there is one [auto]");
  o.flag("--report-kv", generate.report_kv, "print the cache's bytes by layer kind, against full attention");
  o.integer("--kv-tokens", generate.kv_tokens, 1, most_tokens,
            "with --report-kv: by formula, for N tokens; the model may be a CONFIG.yaml; generates nothing");
  o.flag("--json", generate.json, "print one JSON object at the end");
  o.footer(
      "\nAn empty prompt is the start of a document. The text is a function of weights, prompt, options and "
      "seed, not of\nthe other prompts.\n");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  check(o, generate);
  o.finish();
  return generate;
}

}  // namespace hysparse
