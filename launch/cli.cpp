#include "launch/cli.h"

#include <algorithm>
#include <cstdio>

#include "launch/cli_options.h"
#include "launch/config.h"
#include "launch/nearest.h"

namespace hysparse {
namespace {

std::string main_help() {
  std::string text =
      "hysparse trains HySparse mixture-of-experts language models.\n\n"
      "usage: hysparse COMMAND [options]      (train also under mpirun -np N)\n\n"
      "commands:\n";
  for (const CommandName& command : command_names()) {
    if (command.there && !command.hidden) text += fmt::format("  {:<12} {}\n", command.name, command.summary);
  }
  text += "\nnot there yet (README, Status):\n ";
  for (const CommandName& command : command_names()) {
    if (!command.there) text += " " + command.name;
  }
  return text +
         "\n\nhysparse COMMAND --help lists a command's options; hysparse --version prints the version.\n"
         "exit status: 0 done; 1 failed while running; 2 bad usage, config or input\n";
}

/// Every line of an exception's text as the program prints it.
std::string error_lines(const std::string& text) {
  std::string lines;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines += fmt::format("{}hysparse: error: {}", begin == 0 ? "" : "\n", text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

/// What one rank alone throws, without that rank's name: Runtime::run gives it. Only the first line gets the
/// program's name in front; those of a timeout's table of ranks stay as they are.
std::string lone_error(const Runtime& runtime, const std::string& text) {
  const std::string rank = fmt::format("rank {}: ", runtime.rank());
  return "hysparse: error: " + (text.starts_with(rank) ? text.substr(rank.size()) : text);
}

/// The resolved config on stdout. Without mpirun the number of ranks is not judged: the file may be meant for
/// many.
int print_config(Runtime& runtime, const TrainOptions& options) {
  RunConfig config;
  runtime.agree([&] {
    const auto world = runtime.world() > 1 ? std::optional<int>(runtime.world()) : std::nullopt;
    config = load_config(options.config, options.overrides, world);
  });
  if (runtime.rank() == 0) fmt::print("{}", config_yaml(config));
  return 0;
}

struct Dispatch {
  Runtime& runtime;
  const Commands& commands;

  int operator()(const PrintText& print) const {
    if (runtime.rank() == 0) fmt::print("{}", print.text);
    return 0;
  }
  int operator()(const TrainOptions& options) const {
    return options.print_config ? print_config(runtime, options) : commands.train(runtime, options);
  }
  int operator()(const PrepareConfig& options) const { return commands.prepare(runtime, options); }
  int operator()(const DataInspectOptions& options) const { return commands.data_inspect(runtime, options); }
  int operator()(const EvalOptions& options) const { return commands.eval(runtime, options); }
  int operator()(const ExportOptions& options) const { return commands.export_model(runtime, options); }
  int operator()(const ImportOptions& options) const { return commands.import_model(runtime, options); }
  int operator()(const GenerateOptions& options) const { return commands.generate(runtime, options); }
  int operator()(const VerifyOptions& options) const { return commands.verify(runtime, options); }
  int operator()(const VerifyLayoutOptions& options) const { return commands.verify_layout(runtime, options); }
  int operator()(const BenchOptions& options) const { return commands.bench(runtime, options); }
  int operator()(const CheckpointOptions& options) const { return commands.checkpoint(runtime, options); }
  int operator()(const TokenizerTrainOptions& options) const {
    return commands.tokenizer_train(runtime, options);
  }
};

int parse_and_run(Runtime& runtime, const std::vector<std::string>& arguments, const Commands& commands) {
  ParsedCommand command;
  runtime.agree([&] { command = parse_command_line(arguments); });
  return std::visit(Dispatch{runtime, commands}, command);
}

/// Standard output may fail late (a full disk, a closed pipe): that must not look like success.
void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) throw_failure("cannot write to standard output");
}

}  // namespace

ParsedCommand parse_command_line(const std::vector<std::string>& arguments) {
  std::vector<std::string> there;
  for (const CommandName& command : command_names()) {
    if (command.there && !command.hidden) there.push_back(command.name);
  }
  if (arguments.empty()) {
    throw_error("a command is needed: {} (hysparse --help says more)", fmt::join(there, ", "));
  }
  const std::string& name = arguments.front();
  if (name == "--help" || name == "-h" || name == "help") return PrintText{main_help()};
  if (name == "--version") return PrintText{"hysparse " HYSPARSE_VERSION "\n"};
  if (name.starts_with("-"))
    throw_error("{}: unknown option; a command comes first: {}", name, fmt::join(there, ", "));
  std::vector<std::string> all;
  for (const CommandName& command : command_names()) {
    if (command.name == name && !command.there) throw_error("{}: not there yet; see README, Status", name);
    if (command.name == name) return parse_options(name, {arguments.begin() + 1, arguments.end()});
    if (!command.hidden) all.push_back(command.name);
  }
  const auto near = nearest_name(name, all);
  throw_error("{}: unknown command{}", name,
              near ? suggestion(near) : "; one of " + fmt::format("{}", fmt::join(there, ", ")));
}

int run_program(Runtime& runtime, const std::vector<std::string>& arguments, const Commands& commands) {
  // Runtime::run prints what is thrown and knows whether all ranks share it; here it gets the program's name in
  // front.
  return runtime.run([&] {
    try {
      const int status = parse_and_run(runtime, arguments, commands);
      flush_output();
      return status;
    } catch (const AgreedError& e) {
      throw AgreedError(error_lines(e.what()));
    } catch (const AgreedFailure& e) {
      throw AgreedFailure(error_lines(e.what()));
    } catch (const Error& e) {
      throw Error(error_lines(e.what()));
    } catch (const CollectiveTimeout& e) {
      throw CollectiveTimeout(lone_error(runtime, e.what()));
    } catch (const std::exception& e) {
      throw Failure(lone_error(runtime, e.what()));
    }
  });
}

}  // namespace hysparse
