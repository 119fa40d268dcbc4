#include "export/tokenizer_files.h"

#include <filesystem>

#include <nlohmann/json.hpp>

#include "checkpoint/file.h"

namespace hysparse {
namespace {

constexpr std::int64_t max_byte_json = 1 << 16;

/// The spelling of the token that ends a document, "" when it has none.
std::string eos_token(const Tokenizer& tokenizer) {
  return tokenizer.eos_id() < 0 ? "" : tokenizer.decode(tokenizer.eos_id());
}

}  // namespace

std::string tokenizer_config_json(const Tokenizer& tokenizer, std::int64_t max_tokens) {
  nlohmann::ordered_json j;
  j["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (const std::string eos = eos_token(tokenizer); !eos.empty()) {
    j["eos_token"] = eos;
    j["pad_token"] = eos;
  }
  if (max_tokens > 0) j["model_max_length"] = max_tokens;
  j["clean_up_tokenization_spaces"] = false;
  return j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void write_tokenizer_files(const std::string& directory, const Tokenizer& tokenizer, std::int64_t max_tokens) {
  write_file_atomically(directory + "/tokenizer_config.json", tokenizer_config_json(tokenizer, max_tokens));
  write_file_atomically(directory + "/tokenizer.json", tokenizer.json());
}

std::string tokenizer_of_directory(const std::string& directory) {
  std::error_code error;
  const std::string path = directory + "/tokenizer.json";
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) return "";
  if (bytes <= static_cast<std::uintmax_t>(max_byte_json) &&
      read_text_file(path, max_byte_json) == make_tokenizer("byte")->json()) {
    return "byte";
  }
  return directory;
}

}  // namespace hysparse
