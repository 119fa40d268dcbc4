/// JSON from files that may be damaged or hostile. Includes nlohmann/json.hpp: for .cpp files only.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace hysparse {

/// Feeds the events of a whole text to `handler`; false when it stopped at a fault. A NUL byte is a syntax
/// error (nlohmann takes it for the end of the text).
bool parse_events(std::string_view text, nlohmann::json_sax<nlohmann::json>* handler);

/// Parses a whole text. Throws Error, naming `path`, for a syntax error, a duplicate key or nesting deeper
/// than 16.
nlohmann::json parse_json(std::string_view text, const std::string& path);

/// The rest of nlohmann's message after its bracketed id, fit for one line.
std::string json_reason(const std::exception& error);

/// A value of a file as text for a message: one line, printable.
std::string json_in_message(const nlohmann::json& value);

}  // namespace hysparse
