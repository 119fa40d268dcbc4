/// The options of generate.
#pragma once

#include "launch/cli_parser.h"

namespace hysparse {

ParsedCommand parse_generate(Options& o, const std::vector<std::string>& arguments);

}  // namespace hysparse
