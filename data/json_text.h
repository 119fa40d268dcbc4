/// One string of a JSON object, fast: the line of a JSONL file is walked once, and its text is not copied
/// unless it has escapes.
#pragma once

#include <string>
#include <string_view>

namespace hysparse {

/// The string under `key` of the object in `line`: a view of `line`, or of `scratch`. Of equal keys the last
/// counts. Throws Error ("bad JSON: ...", "the object has no key ...") when `line` is not one valid JSON object
/// in UTF-8 that has a string there.
std::string_view json_text(std::string_view line, const std::string& key, std::string& scratch);

}  // namespace hysparse
