/// "did you mean": the nearest of known names.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace hysparse {

/// Insertions, deletions, substitutions and swaps of neighbours that turn a into b.
std::size_t edit_distance(const std::string& a, const std::string& b);

/// The name at the least distance, when it is near enough to be meant (a third of the length); the first of
/// equals.
std::optional<std::string> nearest_name(const std::string& name, const std::vector<std::string>& known);

/// "; did you mean X?" or nothing.
std::string suggestion(const std::optional<std::string>& name);

}  // namespace hysparse
