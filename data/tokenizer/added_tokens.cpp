#include "data/tokenizer/added_tokens.h"

#include <algorithm>

#include "data/tokenizer/unicode.h"

namespace hysparse {
namespace {

unsigned char byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

Character next_character(std::string_view text, std::size_t at) {
  return character_at(text.data() + at, text.data() + text.size());
}

/// The character that ends at `end` > 0.
Character previous_character(std::string_view text, std::size_t end) {
  constexpr std::size_t longest = 4;
  for (std::size_t bytes = 1; bytes <= longest && bytes <= end; ++bytes) {
    const Character c = character_at(text.data() + end - bytes, text.data() + end);
    if (c.bytes == bytes && c.code_point != invalid_code_point) return c;
  }
  return {invalid_code_point, 1};
}

bool is_space(std::uint32_t code_point) {
  const CharClass c = char_classes()[code_point];
  return c == CharClass::space || c == CharClass::newline;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens) : nodes_(1) {
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    std::uint32_t node = 0;
    for (const char c : token.content) {
      const std::uint64_t key = std::uint64_t{node} << 8U | static_cast<unsigned char>(c);
      const auto [child, is_new] = children_.try_emplace(key, static_cast<std::uint32_t>(nodes_.size()));
      if (is_new) nodes_.emplace_back();
      node = child->second;
    }
    if (nodes_[node].token >= 0) continue;
    nodes_[node].token = std::ssize(tokens_);
    tokens_.push_back(token);
    first_.set(byte_at(token.content, 0));
  }
  if (first_.count() == 1) only_first_ = byte_at(tokens_[0].content, 0);
}

bool AddedTokenFinder::find(std::string_view text, std::size_t from, std::size_t& begin,
                            std::size_t& index) const {
  if (tokens_.empty()) return false;
  for (std::size_t at = from; at < text.size(); ++at) {
    if (only_first_ >= 0) {
      at = text.find(static_cast<char>(only_first_), at);
      if (at == std::string_view::npos) return false;
    } else if (!first_[byte_at(text, at)]) {
      continue;
    }
    std::int64_t longest = -1;
    std::uint32_t node = 0;
    for (std::size_t i = at; i < text.size(); ++i) {
      const auto child = children_.find(std::uint64_t{node} << 8U | byte_at(text, i));
      if (child == children_.end()) break;
      node = child->second;
      if (nodes_[node].token >= 0) longest = nodes_[node].token;
    }
    if (longest < 0) continue;
    begin = at;
    index = static_cast<std::size_t>(longest);
    return true;
  }
  return false;
}

/// Judges a match and adds the spaces that it takes; `done` is where the one before ended.
bool AddedTokenFinder::widen(std::string_view text, const AddedToken& token, std::size_t done,
                             std::size_t& begin, std::size_t& end) {
  if (token.single_word) {
    if (begin > 0 && is_word_character(previous_character(text, begin).code_point)) return false;
    if (end < text.size() && is_word_character(next_character(text, end).code_point)) return false;
  }
  if (token.lstrip) {
    std::size_t spaces = begin;
    while (spaces > done) {
      const Character c = previous_character(text, spaces);
      if (!is_space(c.code_point)) break;
      spaces -= c.bytes;
    }
    begin = std::max(spaces, done);
  }
  while (token.rstrip && end < text.size()) {
    const Character c = next_character(text, end);
    if (!is_space(c.code_point)) break;
    end += c.bytes;
  }
  return true;
}

}  // namespace hysparse
