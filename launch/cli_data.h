/// The options of prepare and data.
#pragma once

#include <string>
#include <vector>

#include "launch/cli_parser.h"

namespace hysparse {

ParsedCommand parse_prepare(Options& options, const std::vector<std::string>& arguments);
ParsedCommand parse_data(Options& options, const std::vector<std::string>& arguments);

}  // namespace hysparse
