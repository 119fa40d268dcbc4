// The command line: what it reads, what it refuses and how, and the exit status.
#include "launch/cli.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/cli_options.h"
#include "tests/launch/text_files.h"

namespace hysparse {
namespace {

using Arguments = std::vector<std::string>;

template <class T>
T parsed(const Arguments& arguments) {
  return std::get<T>(parse_command_line(arguments));
}

Arguments problems_of(const Arguments& arguments) {
  try {
    parse_command_line(arguments);
  } catch (const Error& e) {
    return e.problems();
  }
  return {};
}

TEST(CommandLine, Train) {
  const auto train = parsed<TrainOptions>({"train", "x.yaml", "a.b=1", "--dry-run", "c=[1, 2]"});
  EXPECT_EQ(train.config, "x.yaml");
  EXPECT_EQ(train.overrides, (Arguments{"a.b=1", "c=[1, 2]"}));
  EXPECT_TRUE(train.dry_run);
  EXPECT_FALSE(train.print_config);
  EXPECT_TRUE(parsed<TrainOptions>({"train", "--print-config", "x.yaml"}).print_config);
}

TEST(CommandLine, TokenizerTrain) {
  const auto train =
      parsed<TokenizerTrainOptions>({"tokenizer", "train", "--input", "a", "b", "--vocab-size", "512",
                                     "--output", "t.json", "--style", "qwen", "--workers", "2"});
  EXPECT_EQ(train.inputs, (Arguments{"a", "b"}));
  EXPECT_EQ(train.vocab_size, 512);
  EXPECT_EQ(train.output, "t.json");
  EXPECT_EQ(train.style, "qwen");
  EXPECT_EQ(train.workers, 2);
  EXPECT_EQ(problems_of({"tokenizer", "use", "--input", "a", "--vocab-size", "99", "--output", "t.json"}),
            (Arguments{"tokenizer: --vocab-size: 99: must be an integer of at least 259",
                       "tokenizer: use: unknown; there is: train"}));
}

TEST(CommandLine, Prepare) {
  const auto prepare = parsed<PrepareConfig>({"prepare", "--input", "a", "b", "--tokenizer", "byte", "--output",
                                              "o.h5", "--text-key", "body", "--workers", "3", "--valid-output",
                                              "v.h5", "--valid-fraction", "0.1"});
  EXPECT_EQ(prepare.inputs, (Arguments{"a", "b"}));
  EXPECT_EQ(prepare.tokenizer, "byte");
  EXPECT_EQ(prepare.output, "o.h5");
  EXPECT_EQ(prepare.text_key, "body");
  EXPECT_EQ(prepare.workers, 3);
  EXPECT_EQ(prepare.valid_output, "v.h5");
  EXPECT_EQ(prepare.valid_fraction, 0.1);
  EXPECT_EQ(prepare.command.rfind("hysparse prepare --input a b ", 0), 0u);
  EXPECT_FALSE(prepare.format.has_value());
  EXPECT_TRUE(prepare.stdin_lines);
  EXPECT_FALSE(prepare.skip_bad_lines);
  const auto more =
      parsed<PrepareConfig>({"prepare", "--input", "-", "--tokenizer", "t.json", "--output", "o", "--format",
                             "megatron", "--stdin-format", "text", "--skip-bad-lines", "--eos", "</s>"});
  EXPECT_EQ(more.inputs, Arguments{"-"});
  EXPECT_EQ(more.format, TokenFormat::megatron);
  EXPECT_FALSE(more.stdin_lines);
  EXPECT_TRUE(more.skip_bad_lines);
  EXPECT_EQ(more.eos, "</s>");
}

TEST(CommandLine, DataInspect) {
  const auto inspect =
      parsed<DataInspectOptions>({"data", "inspect", "a.idx", "--samples", "0", "--sample-tokens", "9",
                                  "--tokenizer", "byte", "--check-ids", "--json"});
  EXPECT_EQ(inspect.config.path, "a.idx");
  EXPECT_EQ(inspect.config.samples, 0);
  EXPECT_EQ(inspect.config.sample_tokens, 9);
  EXPECT_EQ(inspect.config.tokenizer, "byte");
  EXPECT_TRUE(inspect.config.check_ids);
  EXPECT_TRUE(inspect.json);
  EXPECT_EQ(problems_of({"data", "look", "a"}), Arguments{"data: look: unknown; there is: inspect"});
  EXPECT_EQ(problems_of({"data"}), (Arguments{"data: inspect is missing", "data: PATH is missing"}));
}

TEST(CommandLine, Eval) {
  const auto eval = parsed<EvalOptions>({"eval", "run", "--data", "d", "--seq-len", "64", "--batches", "4",
                                         "--dtype", "fp64", "--grads", "g", "--json"});
  EXPECT_EQ(eval.model, "run");
  EXPECT_EQ(eval.data, "d");
  EXPECT_EQ(eval.seq_len, 64);
  EXPECT_EQ(eval.batches, 4);
  EXPECT_EQ(eval.dtype, "fp64");
  EXPECT_EQ(eval.grads, "g");
  EXPECT_TRUE(eval.json);
  EXPECT_EQ(parsed<EvalOptions>({"eval", "run", "--data", "d", "--seq-len", "1e3"}).seq_len, 1000);
}

TEST(CommandLine, ExportAndGenerate) {
  const auto options =
      parsed<ExportOptions>({"export", "run", "--output", "o", "--dtype", "bf16", "--format", "qwen3_moe"});
  EXPECT_EQ(options.checkpoint, "run");
  EXPECT_EQ(options.output, "o");
  EXPECT_EQ(options.dtype, "bf16");
  EXPECT_EQ(options.format, "qwen3_moe");
  EXPECT_EQ(options.shard_bytes, 5'000'000'000);
  EXPECT_EQ(options.tokenizer, std::nullopt);
  const auto imported = parsed<ImportOptions>(
      {"import", "hf", "--config", "c.yaml", "--output", "run", "model.attention=full", "run.seed=2"});
  EXPECT_EQ(imported.source, "hf");
  EXPECT_EQ(imported.config, "c.yaml");
  EXPECT_EQ(imported.output, "run");
  EXPECT_EQ(imported.overrides, (Arguments{"model.attention=full", "run.seed=2"}));
  const auto generate = parsed<GenerateOptions>({"generate", "run", "--prompt", "[a, b] x=y", "--max-tokens",
                                                 "5", "--temperature", "0.5", "--seed", "9", "--report-kv"});
  EXPECT_EQ(generate.prompts, Arguments{"[a, b] x=y"});
  EXPECT_EQ(generate.generation.max_tokens, 5);
  EXPECT_EQ(generate.generation.choice.temperature, 0.5);
  EXPECT_EQ(generate.generation.seed, 9u);
  EXPECT_TRUE(generate.report_kv);
  EXPECT_EQ(parsed<GenerateOptions>({"generate", "run", "--prompt=-x"}).prompts, Arguments{"-x"});
  EXPECT_EQ(parsed<GenerateOptions>({"generate", "run", "--prompt", ""}).prompts, Arguments{""});
  const auto several =
      parsed<GenerateOptions>({"generate", "--prompt", "a", "run", "--prompt", "b", "--stop", "x", "--stop",
                               "[y, z]", "--top-p", "0.9", "--prefill-chunk", "64"});
  EXPECT_EQ(several.model, "run");
  EXPECT_EQ(several.prompts, (Arguments{"a", "b"}));
  EXPECT_EQ(several.generation.stop, (Arguments{"x", "[y, z]"}));
  EXPECT_EQ(several.generation.choice.top_p, 0.9);
  EXPECT_EQ(several.generation.prefill_chunk, 64);
}

TEST(CommandLine, Checkpoint) {
  const auto checkpoint = parsed<CheckpointOptions>({"checkpoint", "verify", "run", "--json"});
  EXPECT_EQ(checkpoint.action, "verify");
  EXPECT_EQ(checkpoint.directory, "run");
  EXPECT_TRUE(checkpoint.json);
  EXPECT_EQ(problems_of({"checkpoint"}),
            (Arguments{"checkpoint: DIR is missing", "checkpoint: ACTION is missing: verify or info"}));
  EXPECT_EQ(problems_of({"checkpoint", "look", "run"}),
            Arguments{"checkpoint: ACTION: look: must be one of verify, info"});
}

TEST(CommandLine, Verify) {
  const auto verify = parsed<VerifyOptions>({"verify", "c.yaml", "--layouts", "tp=2,sp;dp=4", "--np", "4",
                                             "--steps", "7", "--timeout", "9.5", "--json", "train.dtype=fp64"});
  EXPECT_EQ(verify.config, "c.yaml");
  EXPECT_EQ(verify.layouts, "tp=2,sp;dp=4");
  EXPECT_EQ(verify.np, 4);
  EXPECT_EQ(verify.steps, 7);
  EXPECT_EQ(verify.timeout_s, 9.5);
  EXPECT_TRUE(verify.json);
  EXPECT_EQ(verify.overrides, Arguments{"train.dtype=fp64"});
  EXPECT_EQ(parsed<VerifyOptions>({"verify", "c.yaml"}).layouts, "quick");
  const auto worker =
      parsed<VerifyLayoutOptions>({"verify-layout", "c.yaml", "--output", "d", "parallel.tp=2"});
  EXPECT_EQ(worker.output, "d");
  EXPECT_EQ(worker.overrides, Arguments{"parallel.tp=2"});
  EXPECT_EQ(parsed<PrintText>({"--help"}).text.find("verify-layout"), std::string::npos);
}

TEST(CommandLine, Mistakes) {
  EXPECT_EQ(problems_of({}).at(0).rfind("a command is needed: train, prepare,", 0), 0u);
  EXPECT_EQ(problems_of({"trian"}), Arguments{"trian: unknown command; did you mean train?"});
  EXPECT_EQ(problems_of({"plan", "x.yaml"}), Arguments{"plan: not there yet; see README, Status"});
  EXPECT_EQ(problems_of({"train"}), Arguments{"train: CONFIG.yaml is missing"});
  EXPECT_EQ(problems_of({"train", "x.yaml", "--dryrun"}),
            Arguments{"train: --dryrun: unknown option; did you mean --dry-run?"});
  EXPECT_EQ(problems_of({"eval"}),
            (Arguments{"eval: CHECKPOINT|EXPORT is missing", "eval: --data DATA.h5|tokens.bin is missing",
                       "eval: --seq-len N is missing"}));
  EXPECT_EQ(problems_of({"eval", "run", "--data", "d", "--seq-len", "0", "--batches", "x", "--device", "gpu"}),
            (Arguments{"eval: --seq-len: 0: must be a positive integer",
                       "eval: --batches: x: must be a positive integer",
                       "eval: --device: gpu: must be one of auto, cpu, cuda; did you mean cpu?"}));
  EXPECT_EQ(problems_of({"export", "a", "b", "--output", "o", "--format", "qwen4"}),
            (Arguments{"export: --format: qwen4: must be one of auto, hysparse, qwen3_moe, mixtral, glm4_moe, "
                       "qwen3; did you "
                       "mean qwen3?",
                       "export: b: not expected"}));
  EXPECT_EQ(problems_of(
                {"prepare", "--input", "a", "--tokenizer", "byte", "--output", "o", "--valid-fraction", "0.1"}),
            Arguments{"prepare: --valid-fraction needs --valid-output"});
  EXPECT_EQ(problems_of({"generate", "run", "--prompt", "x", "--temperature", "-1"}),
            Arguments{"generate: --temperature: -1: must be a number of at least 0"});
  EXPECT_EQ(problems_of({"generate", "run", "--prompt"}).size(), 1u);
}

TEST(CommandLine, HelpEverywhere) {
  EXPECT_NE(parsed<PrintText>({"--help"}).text.find("exit status"), std::string::npos);
  EXPECT_EQ(parsed<PrintText>({"--version"}).text, "hysparse " HYSPARSE_VERSION "\n");
  for (const CommandName& command : command_names()) {
    if (!command.there) continue;
    EXPECT_NE(parsed<PrintText>({command.name, "--help"}).text.find("hysparse " + command.name),
              std::string::npos);
  }
  EXPECT_NE(parsed<PrintText>({"train", "--help"}).text.find("model.num_heads [8]"), std::string::npos);
}

/// Runs the program in this process with commands that do what the test says.
struct Outcome {
  int status = 0;
  std::string output, errors;
};

Outcome run(
    const Arguments& arguments, const std::function<int()>& train = [] { return 0; }) {
  const auto unexpected = [](const auto&...) { return 99; };
  const Commands commands{[&](Runtime&, const TrainOptions&) { return train(); }, unexpected, unexpected,
                          unexpected, unexpected};
  Runtime runtime(nullptr, nullptr);
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.status = run_program(runtime, arguments, commands);
  outcome.output = ::testing::internal::GetCapturedStdout();
  outcome.errors = ::testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(Program, ExitStatus) {
  EXPECT_EQ(run({"train", "x"}).status, 0);
  EXPECT_EQ(run({"--help"}).status, 0);
  const Outcome usage = run({"trian"});
  EXPECT_EQ(usage.status, 2);
  EXPECT_EQ(usage.errors, "hysparse: error: trian: unknown command; did you mean train?\n");
  const Outcome error = run({"train", "x"}, []() -> int { throw Error(Arguments{"first", "second"}); });
  EXPECT_EQ(error.status, 2);
  EXPECT_EQ(error.errors, "hysparse: error: first\nhysparse: error: second\n");
  const Outcome failure = run({"train", "x"}, []() -> int { throw Failure("disk full"); });
  EXPECT_EQ(failure.status, 1);
  EXPECT_EQ(failure.errors, "hysparse: error: disk full\n");
}

TEST(Program, PrintConfigPrintsYaml) {
  const testing::TextFiles files;
  const std::string path = files.write("x.yaml", "{run: {dir: r}, data: {train: d}}");
  const Outcome printed = run({"train", path, "--print-config", "train.steps=7"});
  EXPECT_EQ(printed.status, 0);
  EXPECT_NE(printed.output.find("  steps: 7\n"), std::string::npos);
  const std::string again = files.write("again.yaml", printed.output);
  EXPECT_EQ(run({"train", again, "--print-config"}).output, printed.output);
  const Outcome bad = run({"train", path, "--print-config", "train.step=7"});
  EXPECT_EQ(bad.status, 2);
  EXPECT_EQ(bad.errors, "hysparse: error: command line: train.step: unknown key; did you mean train.steps?\n");
}

TEST(Program, MissingConfigIsTheUsersMistake) {
  const Outcome outcome = run({"train", "/no/such.yaml", "--print-config"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.errors.rfind("hysparse: error: /no/such.yaml: ", 0), 0u) << outcome.errors;
}

}  // namespace
}  // namespace hysparse
