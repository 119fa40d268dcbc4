/// The options of `hysparse checkpoint`.
#pragma once

#include "launch/cli_parser.h"

namespace hysparse {

ParsedCommand parse_checkpoint(Options& o, const std::vector<std::string>& arguments);

}  // namespace hysparse
