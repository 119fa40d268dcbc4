/// The command line: which command with which options, help texts, and the way from there to an exit status.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "launch/commands.h"

namespace hysparse {

/// Text to print on stdout and be done: help, version, the configuration's documentation.
struct PrintText {
  std::string text;
};

using ParsedCommand = std::variant<PrintText, TrainOptions, PrepareConfig, DataInspectOptions, EvalOptions,
                                   ExportOptions, ImportOptions, GenerateOptions, VerifyOptions,
                                   VerifyLayoutOptions, BenchOptions, CheckpointOptions, TokenizerTrainOptions>;

/// `arguments` without the program's name. Throws Error, one problem per mistake, naming the option, the value,
/// what is allowed and the nearest valid name.
ParsedCommand parse_command_line(const std::vector<std::string>& arguments);

/// What the commands do; the program passes its own, tests pass theirs.
struct Commands {
  std::function<int(Runtime&, const TrainOptions&)> train;
  std::function<int(Runtime&, const PrepareConfig&)> prepare;
  std::function<int(Runtime&, const DataInspectOptions&)> data_inspect;
  std::function<int(Runtime&, const EvalOptions&)> eval;
  std::function<int(Runtime&, const ExportOptions&)> export_model;
  std::function<int(Runtime&, const ImportOptions&)> import_model;
  std::function<int(Runtime&, const GenerateOptions&)> generate;
  std::function<int(Runtime&, const VerifyOptions&)> verify;
  std::function<int(Runtime&, const VerifyLayoutOptions&)> verify_layout;
  std::function<int(Runtime&, const BenchOptions&)> bench;
  std::function<int(Runtime&, const CheckpointOptions&)> checkpoint;
  std::function<int(Runtime&, const TokenizerTrainOptions&)> tokenizer_train;
};

/// Parses, runs, and returns the exit status: 0 done, 1 failed while running, 2 bad usage, config or input.
/// Problems go to stderr, one a line, "hysparse: error: ..."; those that all ranks share are printed once.
/// Collective.
int run_program(Runtime& runtime, const std::vector<std::string>& arguments, const Commands& commands);

}  // namespace hysparse
