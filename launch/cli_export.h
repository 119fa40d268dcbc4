/// The options of `hysparse export` and `hysparse import`.
#pragma once

#include "launch/cli_parser.h"

namespace hysparse {

ParsedCommand parse_export(Options& o, const std::vector<std::string>& arguments);
ParsedCommand parse_import(Options& o, const std::vector<std::string>& arguments);

}  // namespace hysparse
