#include "launch/cli_data.h"

#include "core/error.h"

namespace hysparse {
namespace {

std::optional<TokenFormat> format_named(const std::string& name) {
  for (const TokenFormat format :
       {TokenFormat::hdf5, TokenFormat::megatron, TokenFormat::datatrove, TokenFormat::llmc}) {
    if (name == token_format_name(format)) return format;
  }
  return std::nullopt;
}

}  // namespace

ParsedCommand parse_prepare(Options& o, const std::vector<std::string>& arguments) {
  PrepareConfig prepare;
  std::string format = "auto", stdin_format = "jsonl";
  o.list(
      "--input", "FILE...", prepare.inputs,
      "text files (one document each), .jsonl files (one a line), either with .zst behind it, directories; - "
      "for standard input",
      true);
  o.text("--tokenizer", "byte|tokenizer.json", prepare.tokenizer, "the tokenizer", true);
  o.text("--eos", "TOKEN", prepare.eos, "the token that ends a document [what the tokenizer's files say]");
  o.text("--output", "DATA.h5", prepare.output, "token dataset to write", true);
  o.choice("--format", {"auto", "hdf5", "megatron", "datatrove", "llmc"}, format,
           "of the outputs; auto: by name, .idx megatron, .ds datatrove, .bin llmc, any other hdf5 [auto]");
  o.text("--text-key", "KEY", prepare.text_key, "where a JSONL object has its text [text]");
  o.choice("--stdin-format", {"jsonl", "text"}, stdin_format, "what standard input is [jsonl]");
  o.flag("--skip-bad-lines", prepare.skip_bad_lines, "leave out bad lines of JSONL, and count them");
  o.integer("--workers", prepare.workers, 1, 1024, "threads that encode [1]");
  o.text("--valid-output", "VALID.h5", prepare.valid_output, "where held-out documents go");
  constexpr double least = 1e-9;
  o.number("--valid-fraction", prepare.valid_fraction, least, 1 - least, "a number above 0 and below 1",
           "share of the documents held out [0.05]");
  o.footer("\nA run that was killed goes on where it was when the same command is given again.\n");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  if (o.given("--valid-fraction") && !prepare.valid_output) o.problem("--valid-fraction needs --valid-output");
  o.finish();
  prepare.format = format_named(format);
  prepare.stdin_lines = stdin_format == "jsonl";
  prepare.command = fmt::format("hysparse prepare {}", fmt::join(arguments, " "));
  return prepare;
}

ParsedCommand parse_data(Options& o, const std::vector<std::string>& arguments) {
  DataInspectOptions inspect;
  std::string action;
  o.text("inspect", "inspect", action, "what a token dataset holds", true);
  o.text("PATH", "FILE", inspect.config.path,
         "a token dataset: HDF5, Megatron (.idx, .bin or prefix), datatrove (.ds), llm.c or int32 (.bin)",
         true);
  o.integer("--samples", inspect.config.samples, 0, 1 << 20, "documents to show [3]");
  o.integer("--sample-tokens", inspect.config.sample_tokens, 1, 1 << 20, "tokens to show of each [64]");
  o.text("--tokenizer", "byte|tokenizer.json", inspect.config.tokenizer,
         "decodes the samples, instead of the tokenizer that the file names");
  o.text("--eos", "TOKEN", inspect.config.eos,
         "the token that ends a document [what the tokenizer's files say]");
  o.flag("--check-ids", inspect.config.check_ids, "read every id");
  o.flag("--json", inspect.json, "print one JSON object");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  if (!action.empty() && action != "inspect") o.problem(fmt::format("{}: unknown; there is: inspect", action));
  o.finish();
  return inspect;
}

}  // namespace hysparse
