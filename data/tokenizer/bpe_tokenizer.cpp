#include "data/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>

#include "core/error.h"
#include "core/printable.h"
#include "core/random.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/scanner.h"
#include "data/tokenizer/word_cache.h"

namespace hysparse {
namespace {

/// Ends of documents in the tokenizers that are around.
constexpr const char* well_known_eos[] = {
    "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<｜end▁of▁sentence｜>",
};

std::vector<AddedToken> select(const std::vector<AddedToken>& tokens, bool normalized, bool nfc) {
  // Special ones come first, as in the package: of two that are equal once normalized the first counts.
  std::vector<AddedToken> out;
  for (const bool special : {true, false}) {
    for (AddedToken token : tokens) {
      if (token.special != special || token.normalized != normalized) continue;
      std::string room;
      if (normalized && nfc) token.content = std::string(normalize_nfc(token.content, room));
      out.push_back(std::move(token));
    }
  }
  return out;
}

}  // namespace

/// Encodes with a cache of words and all the room it takes.
class BpeTokenizer::Encoder {
 public:
  explicit Encoder(const BpeTokenizer& tokenizer) : t_(tokenizer) {}

  void encode(std::string_view text, std::vector<std::int32_t>& ids) {
    ids_ = &ids;
    readable_end_ = text.data() + text.size();
    t_.raw_->split(
        text, [&](std::string_view between) { normalize(between); }, [&](std::int32_t id) { put(id); });
    flush();
  }

 private:
  static constexpr std::size_t buffer_ids = 4096;

  void put(std::int32_t id) {
    *at_++ = id;
    if (at_ > full()) flush();
  }
  std::int32_t* full() { return buffer_.data() + buffer_ids - WordCache::max_ids; }
  void flush() {
    ids_->insert(ids_->end(), buffer_.data(), at_);
    at_ = buffer_.data();
  }

  void normalize(std::string_view text) {
    if (!t_.nfc_) return find_normalized(text);
    const char* const outer_end = readable_end_;
    const std::string_view normal = normalize_nfc(text, normalized_);
    if (normal.data() != text.data()) readable_end_ = normal.data() + normal.size();
    find_normalized(normal);
    readable_end_ = outer_end;
  }
  void find_normalized(std::string_view text) {
    t_.normalized_->split(
        text, [&](std::string_view between) { split(between); }, [&](std::int32_t id) { put(id); });
  }

  void split(std::string_view text) {
    if (t_.steps_.size() != 1 || t_.steps_[0].prefix_space) return split_in_steps(text);
    const char* const end = text.data() + text.size();
    switch (t_.steps_[0].kind) {
      case SplitStep::Kind::gpt2:
        return scan(Gpt2Scanner(end), text);
      case SplitStep::Kind::llama3:
        return scan(Llama3Scanner<3>(end), text);
      case SplitStep::Kind::qwen:
        return scan(Llama3Scanner<1>(end), text);
      default:
        return split_in_steps(text);
    }
  }
  template <class Scan>
  void scan(const Scan& scan, std::string_view text) {
    const char* const end = text.data() + text.size();
    for (const char* at = text.data(); at < end;) {
      const char* next = scan(at);
      word({at, next}, static_cast<std::size_t>(readable_end_ - at));
      at = next;
    }
  }
  void split_in_steps(std::string_view text) {
    split_words(t_.steps_, text, regex_, [&](std::string_view piece) { word(piece, piece.size()); });
  }

  void word(std::string_view word, std::size_t readable) {
    if (word.size() > WordCache::max_bytes) [[unlikely]]
      return long_word(word);
    const WordCache::Key key = WordCache::key(word, readable);
    WordCache::Entry& entry = cache_.entry(key);
    if (!(entry.key == key)) [[unlikely]] {
      t_.bpe_->encode(word, room_);
      if (room_.ids.size() > WordCache::max_ids) return append(room_.ids);
      entry.key = key;
      entry.count = static_cast<std::uint32_t>(room_.ids.size());
      std::copy(room_.ids.begin(), room_.ids.end(), entry.ids.begin());
    }
    std::copy(entry.ids.begin(), entry.ids.end(), at_);  // all of them: no branch
    at_ += entry.count;
    if (at_ > full()) flush();
  }
  void long_word(std::string_view word) {
    t_.bpe_->encode(word, room_);
    append(room_.ids);
  }
  void append(const std::vector<std::int32_t>& ids) {
    flush();
    ids_->insert(ids_->end(), ids.begin(), ids.end());
  }

  const BpeTokenizer& t_;
  std::vector<std::int32_t>* ids_ = nullptr;
  const char* readable_end_ = nullptr;
  WordCache cache_;
  Bpe::Room room_;
  Regex::Room regex_;
  std::string normalized_;
  std::array<std::int32_t, buffer_ids> buffer_{};
  std::int32_t* at_ = buffer_.data();
};

BpeTokenizer::BpeTokenizer(std::string text, const std::string& name, const EosChoice& eos)
    : text_(std::move(text)), name_(name), hash_(fmt::format("{:016x}", hash_name(text_))) {
  TokenizerJson parts = read_tokenizer_json(text_, name);
  nfc_ = parts.nfc;
  steps_ = std::move(parts.steps);
  bpe_ = std::make_unique<Bpe>(parts.model);
  raw_ = std::make_unique<AddedTokenFinder>(select(parts.added, false, nfc_));
  normalized_ = std::make_unique<AddedTokenFinder>(select(parts.added, true, nfc_));
  for (const AddedToken& token : parts.added) {
    if (token.special) special_.push_back({token.content, token.id});
  }
  fill_spellings(parts);
  choose_eos(parts, eos);
}

BpeTokenizer::~BpeTokenizer() = default;

void BpeTokenizer::fill_spellings(const TokenizerJson& parts) {
  std::map<std::int32_t, std::string> by_id;
  for (const auto& [token, id] : parts.model.vocab) by_id.emplace(id, bytes_of_token(token).value_or(token));
  for (const AddedToken& token : parts.added) by_id.insert_or_assign(token.id, token.content);
  ends_.resize(static_cast<std::size_t>(by_id.rbegin()->first) + 1);
  for (std::size_t id = 0; id < ends_.size(); ++id) {
    const auto found = by_id.find(static_cast<std::int32_t>(id));
    if (found != by_id.end()) spellings_ += found->second;
    ends_[id] = static_cast<std::uint32_t>(spellings_.size());
  }
}

void BpeTokenizer::choose_eos(const TokenizerJson& parts, const EosChoice& eos) {
  const auto id_of = [&](const std::string& token) -> std::int32_t {
    for (const AddedToken& added : parts.added) {
      if (added.content == token) return added.id;
    }
    for (const auto& [content, id] : parts.model.vocab) {
      if (content == token) return id;
    }
    return -1;
  };
  if (eos.id) {
    eos_ = *eos.id;
    if (decode(eos_).empty())
      throw_error("tokenizer {}: the end of documents, id {}, is no token", name_, eos_);
    return;
  }
  if (!eos.token.empty()) {
    eos_ = id_of(eos.token);
    if (eos_ < 0)
      throw_error("tokenizer {}: it has no token '{}' to end documents with", name_, printable(eos.token));
    return;
  }
  for (const char* token : well_known_eos) {
    eos_ = id_of(token);
    if (eos_ >= 0) return;
  }
  throw_error(
      "tokenizer {}: it does not say which token ends a document; name it: \"eos_token\" in a "
      "tokenizer_config.json "
      "beside it, or --eos TOKEN",
      name_);
}

std::unique_ptr<BpeTokenizer::Encoder> BpeTokenizer::take_encoder() const {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto encoder = std::move(idle_.back());
      idle_.pop_back();
      return encoder;
    }
  }
  return std::make_unique<Encoder>(*this);
}

void BpeTokenizer::give_back(std::unique_ptr<Encoder> encoder) const {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(encoder));
}

void BpeTokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  auto encoder = take_encoder();
  encoder->encode(text, ids);
  give_back(std::move(encoder));  // not after an exception: it may hold half a text
}

std::string BpeTokenizer::decode(std::int32_t id) const {
  if (id < 0 || id >= vocab_size())
    throw_error("token id {} is outside the vocabulary 0..{} of tokenizer {}", id, vocab_size() - 1, name_);
  const auto at = static_cast<std::size_t>(id);
  const std::uint32_t begin = at == 0 ? 0 : ends_[at - 1];
  return spellings_.substr(begin, ends_[at] - begin);
}

std::vector<SpecialToken> BpeTokenizer::special_tokens() const {
  return special_;
}

}  // namespace hysparse
