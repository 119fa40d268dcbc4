#include "data/tokenizer/train.h"

#include <algorithm>
#include <limits>
#include <queue>

#include "core/error.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/scanner.h"

namespace hysparse {
namespace {

constexpr std::int64_t bytes_in_alphabet = 256, least_count = 2, progress_every = 256;

class Trainer {
 public:
  explicit Trainer(const WordCounts& words) {
    add_bytes();
    for (const auto& [word, count] : words.sorted()) add_word(word, count);
    for (const auto& [pair, known] : pairs_) push(pair, known.count);
  }

  std::int64_t size() const { return std::ssize(tokens_); }
  /// Merges the most frequent pair; false when there is none.
  bool merge_next() {
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      Pair& pair = pairs_[best.pair];
      if (pair.count != best.count) {  // it was counted down since
        if (pair.count > 0) push(best.pair, pair.count);
        continue;
      }
      if (best.count < least_count) return false;
      merge(best.pair);
      return true;
    }
    return false;
  }
  void finish(NewTokenizer& to) {
    to.vocab = std::move(tokens_);
    to.merges = std::move(merges_);
  }

 private:
  struct Pair {
    std::int64_t count = 0;
    std::vector<std::uint32_t> words;  // that hold it, or held it
  };
  struct Candidate {
    std::int64_t count;
    std::uint64_t pair;
    bool operator<(const Candidate& o) const { return count != o.count ? count < o.count : pair > o.pair; }
  };
  struct Word {
    std::size_t begin, size;  // in symbols_
    std::int64_t count;
  };

  static std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32U | static_cast<std::uint32_t>(right);
  }
  void push(std::uint64_t pair, std::int64_t count) { queue_.push({count, pair}); }

  void add_bytes() {
    std::vector<std::pair<std::uint32_t, int>> order;
    for (int byte = 0; byte < bytes_in_alphabet; ++byte) {
      order.emplace_back(byte_alphabet()[static_cast<std::size_t>(byte)], byte);
    }
    std::sort(order.begin(), order.end());
    byte_ids_.resize(order.size());
    for (const auto& [point, byte] : order) {
      byte_ids_[static_cast<std::size_t>(byte)] =
          token(token_of_bytes(std::string(1, static_cast<char>(byte))));
    }
  }
  std::int32_t token(const std::string& text) {
    const auto [known, is_new] = ids_.try_emplace(text, static_cast<std::int32_t>(tokens_.size()));
    if (is_new) tokens_.push_back(text);
    return known->second;
  }
  void add_word(const std::string& word, std::int64_t count) {
    const auto index = static_cast<std::uint32_t>(words_.size());
    const std::size_t begin = symbols_.size();
    for (const char c : word) symbols_.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    words_.push_back({begin, word.size(), count});
    for (std::size_t i = begin; i + 1 < symbols_.size(); ++i) {
      change(pair_of(symbols_[i], symbols_[i + 1]), count, index);
    }
  }
  /// A pair's count; a word that holds more of it is noted.
  void change(std::uint64_t pair, std::int64_t by, std::uint32_t word) {
    Pair& known = pairs_[pair];
    known.count += by;
    if (by > 0 && (known.words.empty() || known.words.back() != word)) known.words.push_back(word);
  }

  void merge(std::uint64_t pair) {
    const auto left = static_cast<std::int32_t>(pair >> 32U),
               right = static_cast<std::int32_t>(pair & 0xFFFFFFFFU);
    const std::string& a = tokens_[static_cast<std::size_t>(left)];
    const std::string& b = tokens_[static_cast<std::size_t>(right)];
    merges_.emplace_back(a, b);
    const std::int32_t merged = token(merges_.back().first + merges_.back().second);
    const std::vector<std::uint32_t> words = std::move(pairs_[pair].words);
    grown_.clear();
    for (const std::uint32_t word : words) merge_in_word(word, left, right, merged);
    pairs_[pair] = {};
    std::sort(grown_.begin(), grown_.end());
    grown_.erase(std::unique(grown_.begin(), grown_.end()), grown_.end());
    for (const std::uint64_t other : grown_) {
      if (const std::int64_t count = pairs_[other].count; count > 0) push(other, count);
    }
  }
  void merge_in_word(std::uint32_t index, std::int32_t left, std::int32_t right, std::int32_t merged) {
    Word& word = words_[index];
    std::int32_t* symbols = symbols_.data() + word.begin;
    std::size_t kept = 0;
    const auto more = [&](std::int32_t a, std::int32_t b) {
      change(pair_of(a, b), word.count, index);
      grown_.push_back(pair_of(a, b));
    };
    for (std::size_t i = 0; i < word.size; ++i) {
      if (symbols[i] != left || i + 1 == word.size || symbols[i + 1] != right) {
        symbols[kept++] = symbols[i];
        continue;
      }
      if (kept > 0) {
        change(pair_of(symbols[kept - 1], left), -word.count, index);
        more(symbols[kept - 1], merged);
      }
      if (i + 2 < word.size) {
        change(pair_of(right, symbols[i + 2]), -word.count, index);
        more(merged, symbols[i + 2]);
      }
      symbols[kept++] = merged;
      ++i;
    }
    word.size = kept;
  }

  std::vector<std::string> tokens_;
  std::vector<std::pair<std::string, std::string>> merges_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<std::int32_t> byte_ids_;
  std::vector<std::int32_t> symbols_;
  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> queue_;
  std::vector<std::uint64_t> grown_;
};

}  // namespace

void WordCounts::add(std::string_view text) {
  if (style_ == "qwen") text = normalize_nfc(text, normalized_);
  const char* const end = text.data() + text.size();
  const auto count = [&](const auto& scan) {
    for (const char* at = text.data(); at < end;) {
      const char* next = scan(at);
      const std::string_view word(at, static_cast<std::size_t>(next - at));
      const auto known = counts_.find(word);
      if (known != counts_.end()) {
        ++known->second;
      } else {
        counts_.emplace(word, 1);
      }
      at = next;
    }
  };
  if (style_ == "gpt2") {
    count(Gpt2Scanner(end));
  } else if (style_ == "qwen") {
    count(Llama3Scanner<1>(end));
  } else {
    count(Llama3Scanner<3>(end));
  }
}

void WordCounts::add(const WordCounts& other) {
  for (const auto& [word, count] : other.counts_) counts_[word] += count;
}

std::vector<std::pair<std::string, std::int64_t>> WordCounts::sorted() const {
  std::vector<std::pair<std::string, std::int64_t>> out(counts_.begin(), counts_.end());
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> cut_for_counting(std::string_view text, std::size_t bytes) {
  std::vector<std::string_view> pieces;
  const auto visible = [](char c) { return c > ' ' && c < '\x7f'; };
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto may_cut = [&](std::size_t at) {
    return at > 1 && visible(text[at - 2]) && text[at - 1] == '\n' && letter(text[at]);
  };
  while (text.size() > bytes) {
    std::size_t cut = bytes;
    while (cut < text.size() && !may_cut(cut)) ++cut;
    pieces.push_back(text.substr(0, cut));
    text.remove_prefix(cut);
  }
  if (!text.empty()) pieces.push_back(text);
  return pieces;
}

std::vector<std::string> special_tokens_of(const std::string& style) {
  if (style == "llama3") return {"<|end_of_text|>", "<|begin_of_text|>"};
  if (style == "qwen") return {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  return {"<|endoftext|>"};
}

NewTokenizer train_bpe(const WordCounts& words, std::int64_t vocab_size,
                       const std::function<void(std::int64_t)>& progress) {
  NewTokenizer out;
  out.style = words.style();
  out.special = special_tokens_of(out.style);
  const std::int64_t tokens = vocab_size - std::ssize(out.special);
  if (tokens < bytes_in_alphabet)
    throw_error("a vocabulary of {} tokens has no room for {} bytes and {} special tokens", vocab_size,
                bytes_in_alphabet, out.special.size());
  Trainer trainer(words);
  while (trainer.size() < tokens && trainer.merge_next()) {
    if (progress && trainer.size() % progress_every == 0) progress(trainer.size());
  }
  trainer.finish(out);
  return out;
}

}  // namespace hysparse
