#include "data/tokenizer/write_json.h"

#include <nlohmann/json.hpp>

#include "data/tokenizer/scanner.h"

namespace hysparse {
namespace {

using nlohmann::ordered_json;

ordered_json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

ordered_json pre_tokenizer(const std::string& style) {
  if (style.empty() || style == "gpt2") return byte_level(style == "gpt2");
  const ordered_json split = {{"type", "Split"},
                              {"pattern", {{"Regex", style == "qwen" ? qwen_pattern : llama3_pattern}}},
                              {"behavior", "Isolated"},
                              {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", ordered_json::array({split, byte_level(false)})}};
}

}  // namespace

std::string tokenizer_json_text(const NewTokenizer& tokenizer) {
  ordered_json vocab = ordered_json::object(), merges = ordered_json::array(), added = ordered_json::array();
  auto& tokens = vocab.get_ref<ordered_json::object_t&>();  // they differ: no look-up for each
  for (const std::string& token : tokenizer.vocab) tokens.emplace_back(token, vocab.size());
  for (const auto& [left, right] : tokenizer.merges) merges.push_back(ordered_json::array({left, right}));
  for (const std::string& token : tokenizer.special) {
    added.push_back({{"id", tokenizer.vocab.size() + added.size()},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  ordered_json file;
  file["version"] = "1.0";
  file["truncation"] = nullptr;
  file["padding"] = nullptr;
  file["added_tokens"] = std::move(added);
  file["normalizer"] = tokenizer.style == "qwen" ? ordered_json{{"type", "NFC"}} : ordered_json(nullptr);
  file["pre_tokenizer"] = pre_tokenizer(tokenizer.style);
  file["post_processor"] = nullptr;
  file["decoder"] = byte_level(true);
  file["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", ""},
                   {"end_of_word_suffix", ""},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", tokenizer.style == "llama3"},
                   {"vocab", std::move(vocab)},
                   {"merges", std::move(merges)}};
  return file.dump(2) + "\n";
}

}  // namespace hysparse
