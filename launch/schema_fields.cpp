#include "launch/schema_fields.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "launch/nearest.h"
#include "launch/yaml_values.h"

namespace hysparse::schema_fields {
namespace {

const std::optional<std::string> fine = std::nullopt;

/// The hint for a scalar of the wrong form.
std::string unquote_hint(const YamlNode& node) {
  return node.quoted ? " (without quotes)" : "";
}

bool plain(const YamlNode& node) {
  return node.kind == YamlNode::Kind::scalar && !node.quoted;
}

std::string integer_allowed(std::int64_t min) {
  return min == 1 ? "a positive integer" : fmt::format("an integer of at least {}", min);
}

std::string brief(double value) {
  return fmt::format("{}", value);
}

std::string number_allowed(const Bounds& bounds) {
  if (!std::isfinite(bounds.max)) {
    if (bounds.min_exclusive && bounds.min == 0) return "a positive number";
    return fmt::format("a number {} {}", bounds.min_exclusive ? "above" : "of at least", brief(bounds.min));
  }
  if (bounds.max_exclusive)
    return fmt::format("a number of at least {} and below {}", brief(bounds.min), brief(bounds.max));
  return fmt::format("a number from {} to {}", brief(bounds.min), brief(bounds.max));
}

bool within(double value, const Bounds& bounds) {
  const bool low = bounds.min_exclusive ? value > bounds.min : value >= bounds.min;
  const bool high = bounds.max_exclusive ? value < bounds.max : value <= bounds.max;
  return low && high;
}

std::optional<std::string> read_text(const YamlNode& node, std::string& value) {
  if (node.kind != YamlNode::Kind::scalar || node.text.empty()) return "";
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (std::any_of(node.text.begin(), node.text.end(), control)) return " without control characters";
  value = node.text;
  return fine;
}

template <class T>
SchemaKey integer_of(std::string path, Field<T> field, std::int64_t min, std::int64_t max, std::string help) {
  SchemaKey key;
  key.path = std::move(path);
  key.type = "integer";
  key.allowed = integer_allowed(min);
  key.help = std::move(help);
  const std::string too_large = fmt::format(" (at most {})", max);
  key.read = [=](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    const auto value = plain(node) ? parse_integer(node.text) : std::nullopt;
    if (!value) {
      const auto number = plain(node) ? parse_number(node.text) : std::nullopt;
      return number && *number > static_cast<double>(max) ? too_large : unquote_hint(node);
    }
    if (*value > max) return too_large;
    if (*value < min) return "";
    field(config) = static_cast<T>(*value);
    return fine;
  };
  key.write = [=](RunConfig& config) { return fmt::format("{}", field(config)); };
  return key;
}

}  // namespace

SchemaKey integer(std::string path, Field<std::int64_t> field, std::int64_t min, std::int64_t max,
                  std::string help) {
  return integer_of(std::move(path), field, min, max, std::move(help));
}

SchemaKey small_integer(std::string path, Field<int> field, std::string help) {
  return integer_of(std::move(path), field, 1, max_size, std::move(help));
}

SchemaKey number(std::string path, Field<double> field, Bounds bounds, std::string help) {
  SchemaKey key;
  key.path = std::move(path);
  key.type = "number";
  key.allowed = number_allowed(bounds);
  key.help = std::move(help);
  key.read = [=](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    const auto value = plain(node) ? parse_number(node.text) : std::nullopt;
    if (!value) return unquote_hint(node);
    if (!within(*value, bounds)) return "";
    field(config) = *value;
    return fine;
  };
  key.write = [=](RunConfig& config) { return format_number(field(config)); };
  return key;
}

SchemaKey number_list(std::string path, Field<std::vector<double>> field, std::size_t count, Bounds bounds,
                      std::string help) {
  SchemaKey key;
  key.path = std::move(path);
  key.type = fmt::format("list of {} numbers", count);
  key.allowed = fmt::format("a list of {} numbers, each {}", count, number_allowed(bounds));
  key.help = std::move(help);
  key.read = [=](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    if (node.kind != YamlNode::Kind::sequence || node.items.size() != count) return "";
    std::vector<double> values;
    for (const YamlPointer& item : node.items) {
      const auto value = plain(*item) ? parse_number(item->text) : std::nullopt;
      if (!value || !within(*value, bounds)) return fmt::format(" (one is {})", describe(*item));
      values.push_back(*value);
    }
    field(config) = values;
    return fine;
  };
  key.write = [=](RunConfig& config) {
    std::vector<std::string> texts;
    for (const double value : field(config)) texts.push_back(format_number(value));
    return fmt::format("[{}]", fmt::join(texts, ", "));
  };
  return key;
}

SchemaKey boolean(std::string path, Field<bool> field, std::string help) {
  SchemaKey key;
  key.path = std::move(path);
  key.type = "boolean";
  key.allowed = "true or false";
  key.help = std::move(help);
  key.read = [=](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    const auto value = plain(node) ? parse_boolean(node.text) : std::nullopt;
    if (!value) return unquote_hint(node);
    field(config) = *value;
    return fine;
  };
  key.write = [=](RunConfig& config) { return std::string(field(config) ? "true" : "false"); };
  return key;
}

SchemaKey text(std::string path, Field<std::string> field, std::string help) {
  SchemaKey key;
  key.path = std::move(path);
  key.type = "text";
  key.allowed = "text";
  key.help = std::move(help);
  key.required = true;
  key.read = [=](const YamlNode& node, RunConfig& config) { return read_text(node, field(config)); };
  key.write = [=](RunConfig& config) { return format_text(field(config)); };
  return key;
}

SchemaKey optional_text(std::string path, Field<std::optional<std::string>> field, std::string help) {
  SchemaKey key;
  key.path = std::move(path);
  key.type = "text";
  key.allowed = "text, or null";
  key.help = std::move(help);
  key.read = [=](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    if (node.kind == YamlNode::Kind::null) {
      field(config).reset();
      return fine;
    }
    std::string value;
    auto hint = read_text(node, value);
    if (!hint) field(config) = value;
    return hint;
  };
  key.write = [=](RunConfig& config) {
    return field(config) ? format_text(*field(config)) : std::string("null");
  };
  return key;
}

SchemaKey choice_of(std::string path, std::vector<std::string> words,
                    std::function<void(RunConfig&, std::size_t)> set,
                    std::function<std::size_t(RunConfig&)> get, std::string help) {
  SchemaKey key;
  key.path = std::move(path);
  key.type = "choice";
  key.allowed = fmt::format("one of {}", fmt::join(words, ", "));
  key.help = std::move(help);
  key.read = [words, set](const YamlNode& node, RunConfig& config) -> std::optional<std::string> {
    if (node.kind != YamlNode::Kind::scalar) return "";
    const auto found = std::find(words.begin(), words.end(), node.text);
    if (found == words.end()) return suggestion(nearest_name(node.text, words));
    set(config, static_cast<std::size_t>(found - words.begin()));
    return fine;
  };
  key.write = [words, get](RunConfig& config) { return words[get(config)]; };
  return key;
}

}  // namespace hysparse::schema_fields
