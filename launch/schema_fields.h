/// Makers of schema rows, one per kind of value. FIELD(model.num_heads) names where in RunConfig a value lives.
#pragma once

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "launch/schema.h"

namespace hysparse::schema_fields {

template <class T>
using Field = T& (*)(RunConfig&);

#define HYSPARSE_FIELD(member)      \
  [](RunConfig & config) -> auto& { \
    return config.member;           \
  }

/// Sizes stay below 2^31, so that products of two fit 64 bits.
inline constexpr std::int64_t max_size = std::numeric_limits<std::int32_t>::max();

SchemaKey integer(std::string path, Field<std::int64_t> field, std::int64_t min, std::int64_t max,
                  std::string help);
SchemaKey small_integer(std::string path, Field<int> field, std::string help);  ///< 1 to max_size

/// Bounds of a number: min and max, each inclusive unless said.
struct Bounds {
  double min = 0;
  double max = std::numeric_limits<double>::infinity();
  bool min_exclusive = false;
  bool max_exclusive = false;
};
SchemaKey number(std::string path, Field<double> field, Bounds bounds, std::string help);
/// Exactly `count` numbers.
SchemaKey number_list(std::string path, Field<std::vector<double>> field, std::size_t count, Bounds bounds,
                      std::string help);
SchemaKey boolean(std::string path, Field<bool> field, std::string help);
SchemaKey text(std::string path, Field<std::string> field, std::string help);  ///< required
SchemaKey optional_text(std::string path, Field<std::optional<std::string>> field, std::string help);

template <class Enum>
using Words = std::vector<std::pair<Enum, std::string>>;

/// One of several words, by index: one compiled body serves every enum.
SchemaKey choice_of(std::string path, std::vector<std::string> words,
                    std::function<void(RunConfig&, std::size_t)> set,
                    std::function<std::size_t(RunConfig&)> get, std::string help);

template <class Enum>
SchemaKey choice(std::string path, Field<Enum> field, const Words<Enum>& words, std::string help) {
  std::vector<std::string> names;
  std::vector<Enum> values;
  for (const auto& [value, name] : words) {
    values.push_back(value);
    names.push_back(name);
  }
  return choice_of(
      std::move(path), std::move(names),
      [field, values](RunConfig& config, std::size_t i) { field(config) = values[i]; },
      [field, values](RunConfig& config) {
        std::size_t i = 0;
        while (values[i] != field(config)) ++i;
        return i;
      },
      std::move(help));
}

SchemaKey hybrid_ratio_key();  ///< model.hybrid_ratio, "1:n"
SchemaKey layer_types_key();   ///< model.layer_types
/// A path or a blend.
SchemaKey sources_key(std::string path, Field<std::vector<RunConfig::DataSource>> field, bool required,
                      std::string help);

}  // namespace hysparse::schema_fields
