/// Ids of words that came before: direct-mapped, one cache line an entry, for short words of few ids.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace hysparse {

class WordCache {
 public:
  static constexpr std::size_t max_bytes = 31, max_ids = 7;

  struct Key {
    std::array<std::uint64_t, 4> words{};  // the bytes, zeros, and the length in the last one
    bool operator==(const Key& o) const {
      return ((words[0] ^ o.words[0]) | (words[1] ^ o.words[1]) | (words[2] ^ o.words[2]) |
              (words[3] ^ o.words[3])) == 0;
    }
  };
  struct alignas(64) Entry {
    Key key;
    std::array<std::int32_t, max_ids> ids{};
    std::uint32_t count = 0;
  };

  WordCache() : entries_(std::size_t{1} << bits) {}

  /// `word`: 1 to max_bytes bytes; up to `readable` bytes from its begin may be read.
  static Key key(std::string_view word, std::size_t readable) {
    Key key;
    if (readable >= sizeof(Key)) [[likely]] {
      const std::size_t last = (word.size() - 1) / 8;
      // The last word is cut; those before it are whole.
      const std::uint64_t mask = ~std::uint64_t{0} >> (8 * (7 - (word.size() - 1) % 8));
      if (last == 0) {
        key.words[0] = load(word.data()) & mask;
      } else {
        key.words[0] = load(word.data());
        for (std::size_t i = 1; i < last; ++i) key.words[i] = load(word.data() + 8 * i);
        key.words[last] = load(word.data() + 8 * last) & mask;
      }
    } else {
      std::memcpy(key.words.data(), word.data(), word.size());
    }
    key.words[3] |= std::uint64_t{word.size()} << 56U;
    return key;
  }
  Entry& entry(const Key& key) {
    constexpr std::uint64_t a = 0x9E3779B97F4A7C15U, b = 0xC2B2AE3D27D4EB4FU, c = 0x165667B19E3779F9U;
    std::uint64_t hash = key.words[0] * a ^ key.words[1] * b ^ (key.words[2] + key.words[3]) * c;
    hash = (hash ^ hash >> 32U) * a;
    return entries_[hash >> (64U - bits)];
  }

 private:
  static constexpr unsigned bits = 16;
  static std::uint64_t load(const char* from) {
    std::uint64_t word = 0;
    std::memcpy(&word, from, sizeof(word));
    return word;
  }
  std::vector<Entry> entries_;
};

}  // namespace hysparse
