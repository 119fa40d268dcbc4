#include "launch/cli_options.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "launch/cli_checkpoint.h"
#include "launch/cli_data.h"
#include "launch/cli_export.h"
#include "launch/cli_generate.h"
#include "launch/cli_parser.h"
#include "launch/cli_tokenizer.h"
#include "launch/config.h"

namespace hysparse {
namespace {

constexpr std::int64_t no_limit = Options::no_limit;

ParsedCommand parse_train(Options& o, const std::vector<std::string>& arguments) {
  TrainOptions train;
  o.text("CONFIG.yaml", "FILE", train.config, "the configuration", true);
  o.list("OVERRIDE", "key.path=value", train.overrides, "overrides of single keys; the value is YAML");
  o.flag("--print-config", train.print_config, "print the resolved configuration and stop");
  o.flag("--dry-run", train.dry_run, "check everything, train nothing, write nothing");
  o.footer(
      "\nResumes by itself from run.dir when a checkpoint is there. Under mpirun -np N it trains on N "
      "ranks.\n\n" +
      config_help());
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return train;
}

ParsedCommand parse_eval(Options& o, const std::vector<std::string>& arguments) {
  EvalOptions eval;
  o.text("CHECKPOINT|EXPORT", "DIR", eval.model, "run directory (latest step), step directory or export", true);
  o.text("--data", "DATA.h5|tokens.bin", eval.data, "token dataset, or int32 ids", true);
  o.integer("--seq-len", eval.seq_len, 1, std::numeric_limits<std::int32_t>::max(), "tokens of a window", true);
  o.integer("--batches", eval.batches, 1, no_limit, "windows to read at most [all]");
  o.choice("--dtype", {"fp64", "fp32", "bf16"}, eval.dtype, "compute dtype; fp64: CPU, bf16: GPU [fp32]");
  o.choice("--device", {"auto", "cpu", "cuda"}, eval.device, "auto: the GPU where there is one [auto]");
  o.text("--grads", "OUT.safetensors", eval.grads, "write d(mean loss)/d(parameter) there");
  o.text("--logits", "OUT.safetensors", eval.logits, "write the windows' logits there");
  o.flag("--document-mask", eval.document_mask, "keep attention inside documents, as data.document_mask");
  o.flag("--json", eval.json, "print one JSON object");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return eval;
}

ParsedCommand parse_verify(Options& o, const std::vector<std::string>& arguments) {
  VerifyOptions verify;
  o.text("CONFIG.yaml", "FILE", verify.config,
         "the configuration; without data.train it is verified on random tokens", true);
  o.list("OVERRIDE", "key.path=value", verify.overrides, "overrides of single keys; the value is YAML");
  o.text("--layouts", "all|quick|LIST", verify.layouts,
         "every layout that fits, a dozen, or a list like \"tp=2,sp,pp=2;dp=4,ep=2,recompute=layer\" [quick]");
  constexpr int most_ranks = 1024;
  o.integer("--np", verify.np, 1, most_ranks, "ranks that a layout may have [8]");
  o.integer("--steps", verify.steps, 1, no_limit, "steps to train and compare [5]");
  o.number("--timeout", verify.timeout_s, 1, std::numeric_limits<double>::max(), "a number of at least 1",
           "seconds that one layout may take [300]");
  o.flag("--json", verify.json, "print one JSON object, with the traffic of the last step");
  o.footer(
      "\nTrains one rank and each layout on the same data from the same values and compares losses, gradient "
      "norms\nand the gradients of step 1. Starts mpirun itself. Exit status 1 when a layout is not equal to "
      "one "
      "rank.\nNames in a layout: tp, sp (sequence parallelism), pp, interleaved[=chunks], dp, ep, etp, "
      "recompute=selective|layer.\ntrain.dtype=fp64 tells rounding from error.\n");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return verify;
}

ParsedCommand parse_verify_layout(Options& o, const std::vector<std::string>& arguments) {
  VerifyLayoutOptions layout;
  o.text("CONFIG.yaml", "FILE", layout.config, "the configuration", true);
  o.list("OVERRIDE", "key.path=value", layout.overrides, "overrides of single keys; the value is YAML");
  o.text("--output", "DIR", layout.output, "directory for what the run found", true);
  o.flag("--record-choices", layout.record_choices, "write step 1's blocks and experts there too");
  o.text("--replay-choices", "DIR", layout.replay_choices, "take those of that run");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return layout;
}

ParsedCommand parse_bench(Options& o, const std::vector<std::string>& arguments) {
  BenchOptions bench;
  o.choice("WHAT", {"step", "attention", "moe", "comm"}, bench.what, "what to measure (required)");
  o.text("CONFIG.yaml", "FILE", bench.config,
         "whose sizes, device and layout to take [the quickstart's model]");
  o.list("OVERRIDE", "key.path=value", bench.overrides, "overrides of single keys; the value is YAML");
  o.integer("--steps", bench.steps, 1, no_limit, "runs to count [10]");
  o.integer("--warmup", bench.warmup, 0, no_limit, "runs before them [3]");
  o.flag("--json", bench.json, "print one JSON object");
  o.footer(
      "\nstep: training steps, on random tokens. attention: the kinds of attention, forward and backward. moe: "
      "router\nand experts. comm: collectives, under mpirun. Writes nothing.\n");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  if (bench.what.empty()) o.problem("WHAT is missing: step, attention, moe or comm");
  if (bench.config && bench.config->find('=') != std::string::npos) {  // an override in the config's place
    bench.overrides.insert(bench.overrides.begin(), *bench.config);
    bench.config.reset();
  }
  o.finish();
  return bench;
}

ParsedCommand parse_config_docs(Options& o, const std::vector<std::string>& arguments) {
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return PrintText{config_docs()};
}

}  // namespace

const std::vector<CommandName>& command_names() {
  static const std::vector<CommandName> names = {
      {"train", "train a model from a YAML config; resumes by itself"},
      {"prepare", "turn text into a token dataset"},
      {"data", "what a token dataset holds (data inspect)"},
      {"eval", "loss of a checkpoint or export on tokens"},
      {"export", "write a checkpoint as safetensors in the Hugging Face layout"},
      {"import", "begin a run from a Hugging Face model or an export"},
      {"generate", "continue a prompt"},
      {"verify", "compare losses and gradients of layouts with one rank"},
      {"bench", "measure steps, attention, experts or collectives"},
      {"checkpoint", "verify checkpoints, or say what they hold"},
      {"tokenizer", "train a byte-level BPE tokenizer"},
      {"config-docs", "print docs/config.md: every key of the config"},
      {"verify-layout", "one layout's run, which verify starts", true, true},
      {"plan", "", false},
      {"sweep", "", false},
      {"report", "", false},
  };
  return names;
}

ParsedCommand parse_options(const std::string& command, const std::vector<std::string>& arguments) {
  static const std::vector<std::pair<std::string, ParseCommand>> parsers = {
      {"train", parse_train},
      {"prepare", parse_prepare},
      {"data", parse_data},
      {"eval", parse_eval},
      {"export", parse_export},
      {"import", parse_import},
      {"generate", parse_generate},
      {"verify", parse_verify},
      {"verify-layout", parse_verify_layout},
      {"bench", parse_bench},
      {"checkpoint", parse_checkpoint},
      {"tokenizer", parse_tokenizer},
      {"config-docs", parse_config_docs},
  };
  const auto found =
      std::find_if(parsers.begin(), parsers.end(), [&](const auto& p) { return p.first == command; });
  HYSPARSE_CHECK(found != parsers.end(), "command {}", command);
  const auto& names = command_names();
  const auto name =
      std::find_if(names.begin(), names.end(), [&](const CommandName& n) { return n.name == command; });
  Options options(command, name->summary);
  return found->second(options, arguments);
}

}  // namespace hysparse
