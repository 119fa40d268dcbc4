/// The options of each command.
#pragma once

#include <string>
#include <vector>

#include "launch/cli.h"

namespace hysparse {

struct CommandName {
  std::string name;
  std::string summary;
  bool there = true;    ///< false: planned, and refused
  bool hidden = false;  ///< for the program itself: not in help texts and messages
};

/// Every command, in the order of the help text.
const std::vector<CommandName>& command_names();

/// Parses the arguments of one command that is there. Throws Error.
ParsedCommand parse_options(const std::string& command, const std::vector<std::string>& arguments);

}  // namespace hysparse
