#include "launch/cli_parser.h"

#include <algorithm>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "launch/nearest.h"
#include "launch/yaml_values.h"

namespace hysparse {

struct Options::App : CLI::App {
  using CLI::App::App;
};

namespace {

constexpr std::size_t program_name = sizeof("hysparse ") - 1;
constexpr std::size_t help_column = 34;

}  // namespace

Options::Options(const std::string& command, const std::string& summary)
    : app_(std::make_unique<App>(summary, "hysparse " + command)) {
  app_->allow_extras();
  app_->get_formatter()->column_width(help_column);
}

Options::~Options() = default;

void Options::text(const std::string& name, const std::string& type, std::string& value,
                   const std::string& help, bool required) {
  add(name, type, help, required, [&value](const std::string& given) { value = given; });
}

void Options::text(const std::string& name, const std::string& type, std::optional<std::string>& value,
                   const std::string& help) {
  add(name, type, help, false, [&value](const std::string& given) { value = given; });
}

void Options::choice(const std::string& name, const std::vector<std::string>& words, std::string& value,
                     const std::string& help) {
  add(name, fmt::format("{}", fmt::join(words, "|")), help, false,
      [this, name, words, &value](const std::string& given) {
        value = given;
        if (std::find(words.begin(), words.end(), given) != words.end()) return;
        problem(name, given,
                fmt::format("one of {}{}", fmt::join(words, ", "), suggestion(nearest_name(given, words))));
      });
}

void Options::read_integer(const std::string& name, std::int64_t min, std::int64_t max, const std::string& help,
                           bool required, const std::function<void(std::int64_t)>& take) {
  add(name, "N", help, required, [this, name, min, max, take](const std::string& given) {
    const std::int64_t read = parse_integer(given).value_or(std::numeric_limits<std::int64_t>::min());
    const bool too_large = parse_number(given).value_or(0) > static_cast<double>(max);
    if (read < min || read > max) {
      problem(name, given,
              (min == 1 ? "a positive integer" : fmt::format("an integer of at least {}", min)) +
                  (too_large ? fmt::format(" (at most {})", max) : ""));
    } else {
      take(read);
    }
  });
}

void Options::number(const std::string& name, double& value, double min, double max, const std::string& allowed,
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

void Options::flag(const std::string& name, bool& value, const std::string& help) {
  app_->add_flag(name, value, help);
}

void Options::footer(const std::string& text) {
  app_->footer(text);
}

bool Options::given(const std::string& name) const {
  return app_->count(name) > 0;
}

void Options::problem(const std::string& text) {
  problems_.push_back(fmt::format("{}: {}", app_->get_name().substr(program_name), text));
}

std::optional<std::string> Options::parse(std::vector<std::string> arguments) {
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  try {
    app_->parse(arguments);
  } catch (const CLI::CallForHelp&) {
    return app_->help();
  } catch (const CLI::ArgumentMismatch& e) {  // "--name: ..."
    const std::string text = e.what();
    problem(text.substr(0, text.find(": ")) + " needs a value");
    return std::nullopt;  // what was given after this is not known
  } catch (const CLI::ParseError& e) {
    problem(e.what());
    return std::nullopt;
  }
  std::vector<std::string> names;
  for (const CLI::Option* option : static_cast<const CLI::App&>(*app_).get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  for (const std::string& extra : app_->remaining()) {
    const std::string name = extra.substr(0, extra.find('='));
    const bool option = name.starts_with("-");
    problem(fmt::format("{}: {}{}", extra, option ? "unknown option" : "not expected",
                        option ? suggestion(nearest_name(name, names)) : ""));
  }
  for (const std::string& name : single_) {
    if (app_->count(name) > 1)
      problem(fmt::format("{}: given {} times; give it once", name, app_->count(name)));
  }
  for (const auto& [name, type] : required_) {
    if (!given(name)) problem(fmt::format("{} is missing", name == type ? name : name + " " + type));
  }
  return std::nullopt;
}

void Options::finish() const {
  if (!problems_.empty()) throw Error(problems_);
}

void Options::list(const std::string& name, const std::string& type, std::vector<std::string>& values,
                   const std::string& help, bool required) {
  CLI::Option* option = app_->add_option(name, values, help)->type_name(type);
  if (!required) return;
  option->description(option->get_description() + " (required)");
  required_.emplace_back(name, name.starts_with("-") ? type : name);
}

void Options::texts(const std::string& name, const std::string& type, std::vector<std::string>& values,
                    const std::string& help) {
  CLI::Option* option = app_->add_option_function<std::vector<std::string>>(
      name, [&values](const std::vector<std::string>& given) { values = given; }, help);
  option->type_name(type)->expected(1)->allow_extra_args(false);
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void Options::add(const std::string& name, const std::string& type, const std::string& help, bool required,
                  const std::function<void(const std::string&)>& read) {
  CLI::Option* option =
      app_->add_option_function<std::string>(name, read, help + (required ? " (required)" : ""));
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);  // a second one is refused in parse()
  option->type_name(type);
  single_.push_back(name);
  if (required) required_.emplace_back(name, name.starts_with("-") ? type : name);
}

void Options::problem(const std::string& name, const std::string& given, const std::string& allowed) {
  problem(fmt::format("{}: {}: must be {}", name, given, allowed));
}

}  // namespace hysparse
