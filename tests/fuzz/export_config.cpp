// config.json of an export, of every class.
#include <optional>
#include <string>
#include <vector>

#include "export/format.h"
#include "model/hf_config.h"
#include "tests/fuzz/support.h"
#include "tests/fuzz/targets.h"

namespace hysparse::fuzz {

void export_config(std::string_view input) {
  const std::string text(input);
  accept_or_refuse([&] { static_cast<void>(format_of_config(text, "config.json")); });
  accept_or_refuse([&] { static_cast<void>(max_positions_from_json(text)); });
  const ExportedWeights weights{[](const std::string& name) -> std::optional<std::vector<std::int64_t>> {
    if (name.size() % 2 == 0) return std::nullopt;
    return std::vector<std::int64_t>{8};
  }};
  for (const ExportFormat format : {ExportFormat::hysparse, ExportFormat::qwen3_moe, ExportFormat::mixtral,
                                    ExportFormat::glm4_moe, ExportFormat::qwen3}) {
    accept_or_refuse([&] {
      const ModelConfig config = config_from_class_json(format, text, "config.json", weights);
      if (obstacles(format, config).empty()) static_cast<void>(class_config_json(format, config, {}));
    });
  }
}

}  // namespace hysparse::fuzz
