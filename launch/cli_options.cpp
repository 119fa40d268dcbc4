#include "launch/cli_options.h"

#include <algorithm>
#include <limits>

#include <CLI/CLI.hpp>

#include "launch/config.h"
#include "launch/nearest.h"
#include "launch/yaml_values.h"

namespace hysparse {
namespace {

constexpr std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();

/// One command's options: CLI11 splits the arguments, values are read here, so that every problem is reported,
/// and in one way.
class Options {
 public:
  Options(const std::string& command, const std::string& summary) : app_(summary, "hysparse " + command) {
    app_.allow_extras();
    app_.get_formatter()->column_width(34);
  }

  void text(const std::string& name, const std::string& type, std::string& value, const std::string& help,
            bool required = false) {
    add(name, type, help, required, [&value](const std::string& given) { value = given; });
  }
  void text(const std::string& name, const std::string& type, std::optional<std::string>& value,
            const std::string& help) {
    add(name, type, help, false, [&value](const std::string& given) { value = given; });
  }
  void choice(const std::string& name, const std::vector<std::string>& words, std::string& value,
              const std::string& help) {
    add(name, fmt::format("{}", fmt::join(words, "|")), help, false,
        [this, name, words, &value](const std::string& given) {
          value = given;
          if (std::find(words.begin(), words.end(), given) != words.end()) return;
          problem(name, given,
                  fmt::format("one of {}{}", fmt::join(words, ", "), suggestion(nearest_name(given, words))));
        });
  }
  template <class T>
  void integer(const std::string& name, T& value, std::int64_t min, std::int64_t max, const std::string& help,
               bool required = false) {
    add(name, "N", help, required, [this, name, min, max, &value](const std::string& given) {
      const std::int64_t read = parse_integer(given).value_or(std::numeric_limits<std::int64_t>::min());
      const bool too_large = parse_number(given).value_or(0) > static_cast<double>(max);
      if (read < min || read > max) {
        problem(name, given,
                (min == 1 ? "a positive integer" : fmt::format("an integer of at least {}", min)) +
                    (too_large ? fmt::format(" (at most {})", max) : ""));
      } else {
        value = static_cast<typename ValueOf<T>::type>(read);
      }
    });
  }
  void number(const std::string& name, double& value, double min, double max, const std::string& allowed,
              const std::string& help) {
    add(name, "X", help, false, [this, name, min, max, allowed, &value](const std::string& given) {
      const auto read = parse_number(given);
      if (!read || *read < min || *read > max) {
        problem(name, given, allowed);
      } else {
        value = *read;
      }
    });
  }
  void flag(const std::string& name, bool& value, const std::string& help) { app_.add_flag(name, value, help); }
  void list(const std::string& name, const std::string& type, std::vector<std::string>& values,
            const std::string& help, bool required = false) {
    note(app_.add_option(name, values, help)->type_name(type), name, required);
  }
  void footer(const std::string& text) { app_.footer(text); }
  bool given(const std::string& name) const { return app_.count(name) > 0; }
  void problem(const std::string& text) {
    problems_.push_back(fmt::format("{}: {}", app_.get_name().substr(9), text));
  }

  /// Returns the help text when that is what was asked for. Throws Error.
  std::optional<std::string> parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    try {
      app_.parse(arguments);
    } catch (const CLI::CallForHelp&) {
      return app_.help();
    } catch (const CLI::ArgumentMismatch& e) {  // "--name: ..."
      const std::string text = e.what();
      problem(text.substr(0, text.find(": ")) + " needs a value");
      return std::nullopt;  // what was given after this is not known
    } catch (const CLI::ParseError& e) {
      problem(e.what());
      return std::nullopt;
    }
    std::vector<std::string> names;
    for (const CLI::Option* option : app_.get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    for (const std::string& extra : app_.remaining()) {
      const std::string name = extra.substr(0, extra.find('='));
      const bool option = name.starts_with("-");
      problem(fmt::format("{}: {}{}", extra, option ? "unknown option" : "not expected",
                          option ? suggestion(nearest_name(name, names)) : ""));
    }
    for (const std::string& name : single_) {
      if (app_.count(name) > 1)
        problem(fmt::format("{}: given {} times; give it once", name, app_.count(name)));
    }
    for (const auto& [name, type] : required_) {
      if (!given(name)) problem(fmt::format("{} is missing", name == type ? name : name + " " + type));
    }
    return std::nullopt;
  }
  /// To call when the rules between options are checked, too.
  void finish() const {
    if (!problems_.empty()) throw Error(problems_);
  }

 private:
  template <class T>
  struct ValueOf {
    using type = T;
  };
  template <class T>
  struct ValueOf<std::optional<T>> {
    using type = T;
  };

  template <class F>
  void add(const std::string& name, const std::string& type, const std::string& help, bool required, F&& read) {
    CLI::Option* option = app_.add_option_function<std::string>(name, std::forward<F>(read), help);
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);  // a second one is refused in parse()
    single_.push_back(name);
    note(option->type_name(type), name, required);
  }
  void note(CLI::Option* option, const std::string& name, bool required) {
    if (!required) return;
    option->description(option->get_description() + " (required)");
    required_.emplace_back(name, name.starts_with("-") ? option->get_type_name() : name);
  }
  void problem(const std::string& name, const std::string& given, const std::string& allowed) {
    problem(fmt::format("{}: {}: must be {}", name, given, allowed));
  }

  CLI::App app_;
  std::vector<std::string> problems_;
  std::vector<std::string> single_;  // options that may be given once
  std::vector<std::pair<std::string, std::string>> required_;
};

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

ParsedCommand parse_prepare(Options& o, const std::vector<std::string>& arguments) {
  PrepareConfig prepare;
  o.list("--input", "FILE...", prepare.inputs,
         "text files (one document each), .jsonl files (one a line), directories", true);
  o.text("--tokenizer", "byte|tokenizer.json", prepare.tokenizer, "the tokenizer", true);
  o.text("--output", "DATA.h5", prepare.output, "token dataset to write", true);
  o.text("--text-key", "KEY", prepare.text_key, "where a JSONL object has its text [text]");
  o.integer("--workers", prepare.workers, 1, 1024, "threads [1]");
  o.text("--valid-output", "VALID.h5", prepare.valid_output, "where held-out documents go");
  constexpr double least = 1e-9;
  o.number("--valid-fraction", prepare.valid_fraction, least, 1 - least, "a number above 0 and below 1",
           "share of the documents held out [0.05]");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  if (o.given("--valid-fraction") && !prepare.valid_output) o.problem("--valid-fraction needs --valid-output");
  o.finish();
  prepare.command = fmt::format("hysparse prepare {}", fmt::join(arguments, " "));
  return prepare;
}

ParsedCommand parse_eval(Options& o, const std::vector<std::string>& arguments) {
  EvalOptions eval;
  o.text("CHECKPOINT|EXPORT", "DIR", eval.model, "run directory (latest step), step directory or export", true);
  o.text("--data", "DATA.h5|tokens.bin", eval.data, "token dataset, or int32 ids", true);
  o.integer("--seq-len", eval.seq_len, 1, std::numeric_limits<std::int32_t>::max(), "tokens of a window", true);
  o.integer("--batches", eval.batches, 1, no_limit, "windows to read at most [all]");
  o.choice("--dtype", {"fp64", "fp32", "bf16"}, eval.dtype, "compute dtype [fp32]");
  o.text("--grads", "OUT.safetensors", eval.grads, "write d(mean loss)/d(parameter) there");
  o.flag("--json", eval.json, "print one JSON object");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  if (eval.dtype == "bf16")
    o.problem("--dtype: bf16: bf16 is for GPUs, which this build does not have; fp32 or fp64");
  o.finish();
  return eval;
}

ParsedCommand parse_export(Options& o, const std::vector<std::string>& arguments) {
  ExportOptions options;
  o.text("CHECKPOINT", "DIR", options.checkpoint, "run directory (latest step) or step directory", true);
  o.text("--output", "DIR", options.output, "export directory to write", true);
  o.choice("--dtype", {"f32", "bf16"}, options.dtype, "dtype of the weights [f32]");
  o.choice("--format", {"auto", "hysparse", "qwen3_moe", "mixtral", "glm4_moe", "qwen3"}, options.format,
           "model class of the export [auto]");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return options;
}

ParsedCommand parse_generate(Options& o, const std::vector<std::string>& arguments) {
  GenerateOptions generate;
  o.text("CHECKPOINT|EXPORT", "DIR", generate.model, "run directory (latest step), step directory or export",
         true);
  o.text("--prompt", "TEXT", generate.prompt, "text to go on from (--prompt=TEXT when it begins with a dash)",
         true);
  o.integer("--max-tokens", generate.max_tokens, 1, std::numeric_limits<std::int32_t>::max(),
            "tokens to generate at most [128]");
  o.number("--temperature", generate.temperature, 0, std::numeric_limits<double>::max(),
           "a number of at least 0", "0: the likeliest token [0]");
  o.integer("--seed", generate.seed, 0, no_limit, "of the sampling [0]");
  o.flag("--report-kv", generate.report_kv, "print the cache's bytes by layer kind, against full attention");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return generate;
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
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return layout;
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
      {"eval", "loss of a checkpoint or export on tokens"},
      {"export", "write a checkpoint as safetensors in the Hugging Face layout"},
      {"generate", "continue a prompt"},
      {"verify", "compare losses and gradients of layouts with one rank"},
      {"config-docs", "print docs/config.md: every key of the config"},
      {"verify-layout", "one layout's run, which verify starts", true, true},
      {"import", "", false},
      {"plan", "", false},
      {"sweep", "", false},
      {"bench", "", false},
      {"report", "", false},
      {"data", "", false},
      {"tokenizer", "", false},
      {"checkpoint", "", false},
  };
  return names;
}

ParsedCommand parse_options(const std::string& command, const std::vector<std::string>& arguments) {
  using Parse = ParsedCommand (*)(Options&, const std::vector<std::string>&);
  static const std::vector<std::pair<std::string, Parse>> parsers = {
      {"train", parse_train},
      {"prepare", parse_prepare},
      {"eval", parse_eval},
      {"export", parse_export},
      {"generate", parse_generate},
      {"verify", parse_verify},
      {"verify-layout", parse_verify_layout},
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
