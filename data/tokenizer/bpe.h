/// Byte-pair encoding of single words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hysparse {

/// The model part of a tokenizer.json.
struct BpeModel {
  std::vector<std::pair<std::string, std::int32_t>> vocab;  ///< in the byte alphabet; ids differ
  struct Merge {
    std::int32_t left, right, merged;
  };
  std::vector<Merge> merges;  ///< first come first; of equal pairs the last counts
  std::int32_t unknown = -1;  ///< for bytes that the vocabulary has no symbol for; -1: they are dropped
  bool fuse_unknown = false;
  bool ignore_merges = false;  ///< a word that is a token is that token, however the merges go
};

class Bpe {
 public:
  explicit Bpe(const BpeModel& model);

  /// Room of one thread.
  struct Room {
    std::vector<std::int32_t> ids;
    std::vector<std::uint32_t> ranks;
    struct Symbol {
      std::int32_t id;
      std::int32_t previous, next;  // -1: none; next -2: merged into another
    };
    std::vector<Symbol> symbols;
    struct Candidate {
      std::uint32_t rank;
      std::int32_t position;
      std::int32_t merged;
    };
    std::vector<Candidate> heap;
  };

  /// The ids of a word (not empty), in room.ids until the next call. Repeats: the merge of lowest rank, the
  /// leftmost of equals. O(n log n).
  void encode(std::string_view word, Room& room) const;

 private:
  struct Slot {
    std::uint64_t pair = no_pair;
    std::uint32_t rank = no_rank;
    std::int32_t merged = -1;
  };
  static constexpr std::uint64_t no_pair = ~std::uint64_t{0};
  static constexpr std::uint32_t no_rank = ~std::uint32_t{0};

  static std::uint64_t pair(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32U | static_cast<std::uint32_t>(right);
  }
  const Slot& find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t wanted = pair(left, right);
    std::size_t at = slot(wanted);
    while (slots_[at].pair != wanted && slots_[at].pair != no_pair) at = (at + 1) & mask_;
    return slots_[at];
  }
  std::size_t slot(std::uint64_t pair) const {
    constexpr std::uint64_t multiplier = 0x9E3779B97F4A7C15U;
    return static_cast<std::size_t>((pair ^ pair >> 29U) * multiplier >> shift_);
  }
  void keep_words(const BpeModel& model);
  void start(std::string_view word, std::vector<std::int32_t>& ids) const;
  void merge_short(Room& room) const;
  void merge_long(Room& room) const;

  std::int32_t byte_ids_[256];
  std::int32_t unknown_;
  bool fuse_unknown_;
  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  unsigned shift_ = 63;
  // When merges are ignored: the tokens by their bytes, but for those that the merges give, too.
  std::unordered_map<std::string, std::int32_t> words_;
};

}  // namespace hysparse
