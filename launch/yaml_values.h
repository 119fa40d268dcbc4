/// Values between YAML text and C++: one meaning in both directions. Numbers are decimal only (010 is ten, 0x10
/// and 1_000 are nothing), booleans are true and false only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace hysparse {

/// A whole number: digits with an optional sign, or a decimal number that is whole (1e6, 2.0). nullopt when it
/// is none or does not fit 64 bits.
std::optional<std::int64_t> parse_integer(const std::string& text);
/// A finite decimal number.
std::optional<double> parse_number(const std::string& text);
/// "true" or "false".
std::optional<bool> parse_boolean(const std::string& text);

/// Shortest digits that read back as the same double, always with a point ("0.001", "1.0e-08", "10000.0").
std::string format_number(double value);
/// As YAML: plain where every reader takes it as this very text, else in double quotes.
std::string format_text(const std::string& text);

}  // namespace hysparse
