/// Names from files in messages.
#pragma once

#include <string>
#include <string_view>

namespace hysparse {

/// A name or value from a file, fit for a one-line message: control characters escaped, cut at `limit`
/// characters.
std::string printable(std::string_view text, std::size_t limit = 120);

}  // namespace hysparse
