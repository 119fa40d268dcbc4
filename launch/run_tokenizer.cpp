#include "launch/run_tokenizer.h"

#include <filesystem>

#include "core/error.h"
#include "data/tokenizer.h"
#include "export/tokenizer_files.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

constexpr const char* directory_name = "tokenizer";

}  // namespace

std::string keep_tokenizer(const std::string& run_directory, const TokenFileInfo& data) {
  if (data.tokenizer.empty() || data.tokenizer == "byte") return "";
  const std::string directory = (fs::path(run_directory) / directory_name).string();
  if (fs::exists(directory + "/tokenizer.json")) return "";
  std::string problem;
  try {
    const auto tokenizer = make_tokenizer(data.tokenizer);
    if (data.tokenizer_hash.empty() || tokenizer->hash() == data.tokenizer_hash) {
      fs::create_directories(directory);
      write_tokenizer_files(directory, *tokenizer, 0);
      return "";
    }
    problem = fmt::format("{}: not the tokenizer that the data was made with", data.tokenizer);
  } catch (const Error& e) {
    problem = e.what();
  }
  return problem + "; exports of this run need --tokenizer";
}

void add_tokenizer(const TokenFileInfo& data, std::map<std::string, std::string>& state) {
  state["tokenizer"] = data.tokenizer;
  state["tokenizer_hash"] = data.tokenizer_hash;
}

std::string tokenizer_of_run(const std::string& step_directory,
                             const std::map<std::string, std::string>& data_state) {
  const fs::path run = fs::path(step_directory).parent_path().parent_path();
  const std::string kept = tokenizer_of_directory((run / directory_name).string());
  if (!kept.empty()) return kept;
  const auto named = data_state.find("tokenizer");
  if (named == data_state.end()) return "byte";
  std::error_code error;
  return named->second == "byte" || fs::exists(named->second, error) ? named->second : "";
}

}  // namespace hysparse
