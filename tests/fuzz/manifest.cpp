// manifest.json of a checkpoint.
#include "checkpoint/manifest.h"

#include <string>

#include "checkpoint/region.h"
#include "tests/fuzz/support.h"
#include "tests/fuzz/targets.h"

namespace hysparse::fuzz {

/// The text with its checksum line, or without: then it gets the right one, so that what is behind it is
/// reached.
void manifest(std::string_view input) {
  constexpr std::string_view seal = "  \"checksum\": \"xxh3:";
  std::string text(input);
  if (text.find(seal) == std::string::npos) text += std::string(seal) + xxh3_hex(input) + "\"\n}\n";
  accept_or_refuse([&] {
    const Manifest found = parse_manifest(text, "manifest.json");
    for (const auto& [name, tensor] : found.tensors) {
      if (const auto missing = uncovered(tensor, whole_box(tensor.global_shape))) {
        HYSPARSE_CHECK(missing->shape.numel() > 0, "{}: nothing is missing of {}", name,
                       tensor.global_shape.str());
      }
    }
    const std::string again = manifest_text(found);
    HYSPARSE_CHECK(manifest_text(parse_manifest(again, "again")) == again, "the manifest changes:\n{}", again);
    accept_or_refuse([&] { check_shard_sizes(found, "/nowhere"); });
  });
}

}  // namespace hysparse::fuzz
