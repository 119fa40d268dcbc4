#include "data/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/printable.h"
#include "core/strict_json.h"
#include "data/tokenizer/scanner.h"

namespace hysparse {
namespace {

using nlohmann::json;

constexpr std::int64_t max_id = (1 << 24) - 1;
constexpr std::size_t max_steps = 32, max_added_tokens = 1 << 16, max_added_bytes = 4 << 10;

std::string type_of(const json& part) {
  const auto type = part.is_object() ? part.find("type") : part.end();
  return part.is_object() && type != part.end() && type->is_string() ? printable(type->get<std::string>(), 40)
                                                                     : "one without a type";
}

class Reader {
 public:
  Reader(std::string_view text, const std::string& name) : name_(name) {
    if (std::ssize(text) > max_tokenizer_json_bytes)
      fault("{} bytes, at most {} are allowed", text.size(), max_tokenizer_json_bytes);
    root_ = parse_json(text, name);
    if (!root_.is_object() || !root_.contains("model")) fault("no tokenizer.json: it has no \"model\"");
  }

  TokenizerJson read() {
    read_model(root_["model"]);
    read_added(part("added_tokens"));
    read_normalizer(part("normalizer"));
    read_pre_tokenizer(part("pre_tokenizer"), false);
    if (!byte_level_)
      fault("no ByteLevel pre-tokenizer: only byte-level BPE is supported (not SentencePiece or BERT styles)");
    read_decoder(part("decoder"));
    return std::move(out_);
  }

 private:
  template <class... Args>
  [[noreturn]] void fault(fmt::format_string<Args...> format, Args&&... args) const {
    throw_error("tokenizer {}: {}", name_, fmt::format(format, std::forward<Args>(args)...));
  }

  const json& part(const char* key) const { return member(root_, key); }
  static const json& member(const json& object, const char* key) {
    static const json none;
    const auto found = object.find(key);
    return found == object.end() ? none : *found;
  }
  /// A true or false; `absent` when the key is not there or null.
  bool flag(const json& object, const char* key, bool absent, const char* of) const {
    const json& value = member(object, key);
    if (value.is_null()) return absent;
    if (!value.is_boolean()) fault("{} of {} is neither true nor false", key, of);
    return value.get<bool>();
  }
  std::int32_t id(const json& value, std::string_view token) const {
    if (!value.is_number_integer() || value < 0 || value > max_id)
      fault("the id of '{}' is no integer from 0 to {}", printable(token, 60), max_id);
    return value.get<std::int32_t>();
  }

  void read_model(const json& model) {
    if (!model.is_object()) fault("\"model\" is no object");
    const json& type = member(model, "type");
    const bool looks_like_bpe = type.is_null() && model.contains("merges");  // as old files are
    if (type != "BPE" && !looks_like_bpe)
      fault("its model is {}; only byte-level BPE is supported", type_of(model));
    if (!member(model, "dropout").is_null() && member(model, "dropout") != 0.0)
      fault("dropout is not supported: ids would be random");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const json& value = member(model, key);
      if (!value.is_null() && value != "") fault("{} is not supported", key);
    }
    read_vocab(member(model, "vocab"));
    read_merges(member(model, "merges"));
    out_.model.fuse_unknown = flag(model, "fuse_unk", false, "the model");
    out_.model.ignore_merges = flag(model, "ignore_merges", false, "the model");
    const json& unknown = member(model, "unk_token");
    if (!unknown.is_null()) {
      const auto found = unknown.is_string() ? ids_.find(unknown.get<std::string>()) : ids_.end();
      if (found == ids_.end()) fault("unk_token is not in the vocabulary");
      out_.model.unknown = found->second;
    }
    if (flag(model, "byte_fallback", false, "the model") && ids_.contains("<0x00>"))
      fault("byte_fallback is not supported (a SentencePiece style); only byte-level BPE is");
  }

  void read_vocab(const json& vocab) {
    if (!vocab.is_object() || vocab.empty()) fault("the vocabulary is no object of tokens and ids");
    std::unordered_set<std::int32_t> seen;
    ids_.reserve(vocab.size());
    for (const auto& [token, value] : vocab.items()) {
      const std::int32_t number = id(value, token);
      if (!seen.insert(number).second)
        fault("two tokens have the id {}, one is '{}'", number, printable(token, 60));
      out_.model.vocab.emplace_back(token, number);
      ids_.emplace(token, number);
    }
  }

  std::int32_t token_of_merge(const std::string& token, std::size_t index) const {
    const auto found = ids_.find(token);
    if (found == ids_.end())
      fault("merge {} names '{}', which is not in the vocabulary", index, printable(token, 60));
    return found->second;
  }
  void read_merges(const json& merges) {
    if (!merges.is_array()) fault("\"merges\" is no list");
    std::size_t index = 0;
    for (const json& merge : merges) {
      std::string left, right;
      if (merge.is_string()) {
        const auto& text = merge.get_ref<const std::string&>();
        if (text.starts_with("#version")) continue;
        const std::size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
          fault("merge {} '{}' is not two tokens with a space between", index, printable(text, 60));
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      } else {
        fault("merge {} is neither a string nor a pair of strings", index);
      }
      out_.model.merges.push_back(
          {token_of_merge(left, index), token_of_merge(right, index), token_of_merge(left + right, index)});
      ++index;
    }
  }

  /// The package gives a token of the vocabulary its id there, and others the next free ones, whatever the file
  /// says; a file that says otherwise is refused.
  void read_added(const json& added) {
    if (added.is_null()) return;
    if (!added.is_array() || added.size() > max_added_tokens)
      fault("added_tokens is no list of at most {} tokens", max_added_tokens);
    const auto vocab_size = static_cast<std::int32_t>(ids_.size());
    std::unordered_map<std::int32_t, std::string> by_id;
    for (const auto& [token, number] : out_.model.vocab) by_id.emplace(number, token);
    std::unordered_set<std::string> seen;
    std::int32_t highest = -1;
    for (const json& entry : added) {
      if (!entry.is_object() || !member(entry, "content").is_string()) fault("an added token has no content");
      AddedToken token;
      token.content = entry["content"].get<std::string>();
      const std::string shown = printable(token.content, 60);
      if (token.content.empty() || token.content.size() > max_added_bytes)
        fault("added token '{}' has {} bytes; 1 to {} are allowed", shown, token.content.size(),
              max_added_bytes);
      token.id = id(member(entry, "id"), token.content);
      token.special = flag(entry, "special", false, "an added token");
      token.single_word = flag(entry, "single_word", false, "an added token");
      token.lstrip = flag(entry, "lstrip", false, "an added token");
      token.rstrip = flag(entry, "rstrip", false, "an added token");
      token.normalized = flag(entry, "normalized", !token.special, "an added token");
      if (!seen.insert(token.content).second) fault("added token '{}' appears twice", shown);
      const auto known = ids_.find(token.content);
      const std::int32_t expected =
          known != ids_.end() ? known->second : (highest >= vocab_size ? highest + 1 : vocab_size);
      if (token.id != expected)
        fault("added token '{}' has the id {}, and {} is due ({})", shown, token.id, expected,
              known != ids_.end() ? "its id in the vocabulary" : "the next one after the vocabulary");
      const auto [other, is_new] = by_id.emplace(token.id, token.content);
      if (!is_new && other->second != token.content)
        fault("'{}' and '{}' have the id {}", shown, printable(other->second, 60), token.id);
      highest = std::max(highest, token.id);
      out_.added.push_back(std::move(token));
    }
  }

  void read_normalizer(const json& normalizer) {
    if (normalizer.is_null()) return;
    const std::string type = type_of(normalizer);
    if (type == "NFC") {
      out_.nfc = true;
    } else if (type == "Sequence") {
      const json& list = member(normalizer, "normalizers");
      if (!list.is_array() || list.size() > max_steps) fault("a Sequence without its list of normalizers");
      for (const json& one : list) read_normalizer(one);
    } else {
      fault("its normalizer is {}; supported are null, NFC and a Sequence of those", type);
    }
  }

  void read_pre_tokenizer(const json& pre, bool inside) {
    if (pre.is_null() && !inside) return;
    const std::string type = type_of(pre);
    if (byte_level_ && type != "Sequence")
      fault("pre-tokenizer {} comes after ByteLevel, which is not supported", type);
    if (out_.steps.size() > max_steps) fault("more than {} pre-tokenizers", max_steps);
    if (type == "Sequence") {
      const json& list = member(pre, "pretokenizers");
      if (!list.is_array() || list.size() > max_steps) fault("a Sequence without its list of pretokenizers");
      for (const json& one : list) read_pre_tokenizer(one, true);
    } else if (type == "ByteLevel") {
      byte_level_ = true;
      SplitStep step;
      step.prefix_space = flag(pre, "add_prefix_space", true, "ByteLevel");
      step.kind = flag(pre, "use_regex", true, "ByteLevel") ? SplitStep::Kind::gpt2 : SplitStep::Kind::whole;
      if (step.prefix_space || step.kind != SplitStep::Kind::whole) out_.steps.push_back(std::move(step));
    } else if (type == "Digits") {
      SplitStep step;
      step.kind = SplitStep::Kind::digits;
      if (!flag(pre, "individual_digits", false, "Digits")) step.behavior = SplitBehavior::contiguous;
      out_.steps.push_back(std::move(step));
    } else if (type == "Split") {
      read_split(pre);
    } else {
      fault("its pre-tokenizer is {}; supported are ByteLevel, Split, Digits and a Sequence of those", type);
    }
  }

  void read_split(const json& split) {
    static const std::vector<std::pair<std::string, SplitBehavior>> behaviors = {
        {"Isolated", SplitBehavior::isolated},
        {"Removed", SplitBehavior::removed},
        {"Contiguous", SplitBehavior::contiguous},
        {"MergedWithPrevious", SplitBehavior::merged_with_previous},
        {"MergedWithNext", SplitBehavior::merged_with_next}};
    SplitStep step;
    const json& behavior = member(split, "behavior");
    const auto known =
        std::find_if(behaviors.begin(), behaviors.end(), [&](const auto& b) { return behavior == b.first; });
    if (known == behaviors.end()) fault("the behavior of Split is unknown");
    step.behavior = known->second;
    step.invert = flag(split, "invert", false, "Split");
    const json& pattern = member(split, "pattern");
    const json& regex = pattern.is_object() ? member(pattern, "Regex") : pattern;
    const json& literal = pattern.is_object() ? member(pattern, "String") : pattern;
    if (pattern.is_object() && literal.is_string() && !literal.get_ref<const std::string&>().empty()) {
      step.kind = SplitStep::Kind::literal;
      step.literal = literal.get<std::string>();
    } else if (pattern.is_object() && regex.is_string()) {
      read_regex(regex.get_ref<const std::string&>(), step);
    } else {
      fault("the pattern of Split is neither a Regex nor a String");
    }
    out_.steps.push_back(std::move(step));
  }

  void read_regex(const std::string& pattern, SplitStep& step) {
    // The known patterns match everything, so these keep all matches and nothing else.
    const bool each_match =
        step.behavior == SplitBehavior::isolated || (step.behavior == SplitBehavior::removed && step.invert);
    static const std::vector<std::pair<std::string_view, SplitStep::Kind>> known = {
        {gpt2_pattern, SplitStep::Kind::gpt2},
        {llama3_pattern, SplitStep::Kind::llama3},
        {qwen_pattern, SplitStep::Kind::qwen}};
    for (const auto& [text, kind] : known) {
      if (pattern == text && each_match) {
        step.kind = kind;
        return;
      }
    }
    step.kind = SplitStep::Kind::regex;
    step.regex.emplace(pattern, "tokenizer " + name_);
  }

  void read_decoder(const json& decoder) const {
    if (decoder.is_null()) return;
    const std::string type = type_of(decoder);
    if (type == "ByteLevel") return;
    if (type == "Sequence" && member(decoder, "decoders").is_array()) {
      for (const json& one : member(decoder, "decoders")) read_decoder(one);
      return;
    }
    fault("its decoder is {}; only ByteLevel is supported", type);
  }

  std::string name_;
  json root_;
  TokenizerJson out_;
  std::unordered_map<std::string, std::int32_t> ids_;  // of the vocabulary
  bool byte_level_ = false;
};

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text, const std::string& name) {
  return Reader(text, name).read();
}

}  // namespace hysparse
