// Seeds of the fuzzers, and inputs that once were findings, through the same functions (docs/fuzzing.md). An
// allocation as large as no small file can ask for fails, as it does there.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/fuzz/targets.h"

namespace hysparse::fuzz {
namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  void (*run)(std::string_view);
};
constexpr Target targets[] = {
    {"config_yaml", config_yaml},
    {"datatrove_index", datatrove_index},
    {"export_config", export_config},
    {"jsonl", jsonl},
    {"llmc_tokens", llmc_tokens},
    {"manifest", manifest},
    {"megatron_index", megatron_index},
    {"safetensors_file", safetensors_file},
    {"safetensors_index", safetensors_index},
    {"token_file", token_file},
    {"tokenizer_json", tokenizer_json},
};

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  if (!fs::is_directory(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class FuzzReplay : public testing::TestWithParam<Target> {};

TEST_P(FuzzReplay, Seeds) {
  const std::vector<fs::path> seeds = files_in(fs::path("corpus") / GetParam().name);
  EXPECT_FALSE(seeds.empty());
  for (const fs::path& seed : seeds) {
    SCOPED_TRACE(seed.string());
    EXPECT_NO_THROW(GetParam().run(contents(seed)));
  }
}

/// Each of these once crashed, hung, or took memory without bound.
TEST_P(FuzzReplay, Findings) {
  for (const fs::path& finding : files_in(fs::path("findings") / GetParam().name)) {
    SCOPED_TRACE(finding.string());
    EXPECT_NO_THROW(GetParam().run(contents(finding)));
  }
}

/// Every seed cut short at each length, and each of its bytes changed.
TEST_P(FuzzReplay, DamagedSeeds) {
  constexpr std::size_t most_cases = 400;
  for (const fs::path& seed : files_in(fs::path("corpus") / GetParam().name)) {
    SCOPED_TRACE(seed.string());
    const std::string bytes = contents(seed);
    const std::size_t step = bytes.size() / most_cases + 1;
    for (std::size_t at = 0; at < bytes.size(); at += step) {
      EXPECT_NO_THROW(GetParam().run(std::string_view(bytes).substr(0, at))) << "cut at " << at;
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ 0x80);
      EXPECT_NO_THROW(GetParam().run(changed)) << "changed at " << at;
    }
  }
}

/// Readers that call themselves for what is nested must stop: a value of a seed becomes a list far deeper than
/// the stack.
TEST_P(FuzzReplay, DeepSeeds) {
  constexpr std::size_t depth = 100'000, most_cases = 12;
  const std::string deep = std::string(depth, '[') + std::string(depth, ']') + ",\"x\":";
  for (const fs::path& seed : files_in(fs::path("corpus") / GetParam().name)) {
    SCOPED_TRACE(seed.string());
    const std::string bytes = contents(seed);
    std::size_t at = bytes.find(':');
    for (std::size_t i = 0; i < most_cases && at != std::string::npos; ++i, at = bytes.find(':', at + 1)) {
      EXPECT_NO_THROW(GetParam().run(std::string(bytes).insert(at + 1, deep))) << "at " << at;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzReplay, testing::ValuesIn(targets),
                         [](const auto& target) { return std::string(target.param.name); });

}  // namespace
}  // namespace hysparse::fuzz
