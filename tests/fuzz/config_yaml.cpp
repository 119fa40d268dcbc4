// The config of a run.
#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/yaml_reader.h"
#include "tests/fuzz/support.h"
#include "tests/fuzz/targets.h"

namespace hysparse::fuzz {

/// As a file, and as the value of an override. What is accepted must print as a config that reads back the
/// same.
void config_yaml(std::string_view input) {
  const std::string text(input);
  accept_or_refuse([&] {
    const RunConfig config = config_from_text(text, "fuzz.yaml", 1);
    const std::string printed = hysparse::config_yaml(config);
    std::string again;
    try {
      again = hysparse::config_yaml(config_from_text(printed, "printed.yaml", 1));
    } catch (const Error& error) {
      HYSPARSE_CHECK(false, "the printed config is refused: {}\n{}", error.what(), printed);
    }
    HYSPARSE_CHECK(again == printed, "the config changes when it is read back:\n{}\n{}", printed, again);
  });
  accept_or_refuse([&] {
    std::vector<std::string> problems;
    read_yaml_value(text, "train.steps=" + text, problems);
    if (!problems.empty()) throw Error(problems);
  });
}

}  // namespace hysparse::fuzz
