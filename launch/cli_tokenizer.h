/// The options of tokenizer.
#pragma once

#include <string>
#include <vector>

#include "launch/cli_parser.h"

namespace hysparse {

ParsedCommand parse_tokenizer(Options& options, const std::vector<std::string>& arguments);

}  // namespace hysparse
