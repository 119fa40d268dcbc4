/// Added tokens: spellings that are found in the text before it is split into words.
#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hysparse {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< only where no \w is beside it
  bool lstrip = false;       ///< takes the spaces before it
  bool rstrip = false;       ///< and after it
  bool normalized = true;    ///< is looked for in the normalized text (and is normalized itself)
  bool special = false;
};

/// Finds the tokens of a set: the leftmost, the longest of those.
class AddedTokenFinder {
 public:
  /// Of equal contents the first counts.
  explicit AddedTokenFinder(const std::vector<AddedToken>& tokens);

  bool empty() const { return tokens_.empty(); }
  /// `text` in order: `between` takes what is no token (not empty), `token` the id of one.
  template <class Between, class Token>
  void split(std::string_view text, Between&& between, Token&& token) const {
    std::size_t done = 0, from = 0, begin = 0;
    for (std::size_t index = 0; find(text, from, begin, index);) {
      const AddedToken& found = tokens_[index];
      std::size_t end = from = begin + found.content.size();
      if (!widen(text, found, done, begin, end)) continue;
      if (done < begin) between(text.substr(done, begin - done));
      token(found.id);
      done = end;
    }
    if (done < text.size()) between(text.substr(done));
  }

 private:
  bool find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& index) const;
  static bool widen(std::string_view text, const AddedToken& token, std::size_t done, std::size_t& begin,
                    std::size_t& end);

  struct Node {
    std::int64_t token = -1;
  };
  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::unordered_map<std::uint64_t, std::uint32_t> children_;  // by node << 8 | byte
  std::bitset<256> first_;
  int only_first_ = -1;  // when all begin with the same byte
};

}  // namespace hysparse
