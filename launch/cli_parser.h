/// One command's options. CLI11 splits the arguments; values are read here, so that every problem is reported,
/// and in one way.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/cli.h"

namespace hysparse {

class Options {
 public:
  static constexpr std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();

  Options(const std::string& command, const std::string& summary);
  ~Options();
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  // Each option may be given once. `type` is what help and messages call the value; a name without dashes is
  // positional.
  void text(const std::string& name, const std::string& type, std::string& value, const std::string& help,
            bool required = false);
  void text(const std::string& name, const std::string& type, std::optional<std::string>& value,
            const std::string& help);
  void choice(const std::string& name, const std::vector<std::string>& words, std::string& value,
              const std::string& help);
  /// `value`: an integer type or an optional of one.
  template <class T>
  void integer(const std::string& name, T& value, std::int64_t min, std::int64_t max, const std::string& help,
               bool required = false) {
    read_integer(name, min, max, help, required,
                 [&value](std::int64_t read) { value = static_cast<typename ValueOf<T>::type>(read); });
  }
  void number(const std::string& name, double& value, double min, double max, const std::string& allowed,
              const std::string& help);
  void flag(const std::string& name, bool& value, const std::string& help);
  /// Takes every argument up to the next option.
  void list(const std::string& name, const std::string& type, std::vector<std::string>& values,
            const std::string& help, bool required = false);
  /// May be given several times, each with one value.
  void texts(const std::string& name, const std::string& type, std::vector<std::string>& values,
             const std::string& help);
  void footer(const std::string& text);

  bool given(const std::string& name) const;
  void problem(const std::string& text);
  /// No problem so far.
  bool sound() const { return problems_.empty(); }

  /// Returns the help text when that is what was asked for. Throws Error.
  std::optional<std::string> parse(std::vector<std::string> arguments);
  /// To call when the rules between options are checked, too.
  void finish() const;

 private:
  template <class T>
  struct ValueOf {
    using type = T;
  };
  template <class T>
  struct ValueOf<std::optional<T>> {
    using type = T;
  };
  struct App;  // CLI11's

  void read_integer(const std::string& name, std::int64_t min, std::int64_t max, const std::string& help,
                    bool required, const std::function<void(std::int64_t)>& take);
  void add(const std::string& name, const std::string& type, const std::string& help, bool required,
           const std::function<void(const std::string&)>& read);
  void problem(const std::string& name, const std::string& given, const std::string& allowed);

  std::unique_ptr<App> app_;
  std::vector<std::string> problems_;
  std::vector<std::string> single_;  // options that may be given once
  std::vector<std::pair<std::string, std::string>> required_;
};

/// A command's parser. Throws Error.
using ParseCommand = ParsedCommand (*)(Options&, const std::vector<std::string>& arguments);

}  // namespace hysparse
