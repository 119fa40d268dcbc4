#include "data/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <iterator>

#include "core/error.h"
#include "data/tokenizer/byte_alphabet.h"

namespace hysparse {

Bpe::Bpe(const BpeModel& model) : unknown_(model.unknown), fuse_unknown_(model.fuse_unknown) {
  std::fill(std::begin(byte_ids_), std::end(byte_ids_), -1);
  for (const auto& [token, id] : model.vocab) {
    const auto bytes = bytes_of_token(token);
    if (bytes && bytes->size() == 1) byte_ids_[static_cast<unsigned char>(bytes->front())] = id;
  }
  const std::size_t size = std::bit_ceil(2 * model.merges.size() + 2);
  slots_.resize(size);
  mask_ = size - 1;
  shift_ = 64U - static_cast<unsigned>(std::countr_zero(size));
  for (std::size_t rank = 0; rank < model.merges.size(); ++rank) {
    const BpeModel::Merge& merge = model.merges[rank];
    auto& slot = const_cast<Slot&>(find(merge.left, merge.right));
    slot = {pair(merge.left, merge.right), static_cast<std::uint32_t>(rank), merge.merged};
  }
  if (model.ignore_merges) keep_words(model);
}

void Bpe::keep_words(const BpeModel& model) {
  Room room;
  std::unordered_map<std::string, std::int32_t> words;
  for (const auto& [token, id] : model.vocab) {
    auto bytes = bytes_of_token(token);
    if (!bytes || bytes->empty()) continue;  // no text gives it
    encode(*bytes, room);
    if (room.ids.size() != 1 || room.ids[0] != id) words.emplace(std::move(*bytes), id);
  }
  words_ = std::move(words);
}

void Bpe::start(std::string_view word, std::vector<std::int32_t>& ids) const {
  ids.clear();
  bool after_unknown = false;
  for (const char c : word) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) {
      ids.push_back(id);
    } else if (unknown_ >= 0 && !(after_unknown && fuse_unknown_)) {
      ids.push_back(unknown_);
    }
    after_unknown = id < 0;
  }
}

void Bpe::encode(std::string_view word, Room& room) const {
  if (!words_.empty()) {
    if (const auto found = words_.find(std::string(word)); found != words_.end()) {
      room.ids.assign(1, found->second);
      return;
    }
  }
  start(word, room.ids);
  constexpr std::size_t short_word = 96;
  if (room.ids.size() <= short_word) {
    merge_short(room);
  } else {
    merge_long(room);
  }
}

/// Looks through all pairs for each merge: quick while they are few.
void Bpe::merge_short(Room& room) const {
  std::vector<std::int32_t>& ids = room.ids;
  std::size_t count = ids.size();
  if (count < 2) return;
  room.ranks.resize(count);
  std::uint32_t* ranks = room.ranks.data();
  const auto rank_at = [&](std::size_t i) { return find(ids[i], ids[i + 1]).rank; };
  for (std::size_t i = 0; i + 1 < count; ++i) ranks[i] = rank_at(i);
  while (count > 1) {
    std::uint32_t least = no_rank;
    for (std::size_t i = 0; i + 1 < count; ++i) least = std::min(least, ranks[i]);
    if (least == no_rank) break;
    const auto at = static_cast<std::size_t>(std::find(ranks, ranks + count - 1, least) - ranks);
    ids[at] = find(ids[at], ids[at + 1]).merged;
    --count;
    std::copy(ids.begin() + static_cast<std::ptrdiff_t>(at) + 2,
              ids.begin() + static_cast<std::ptrdiff_t>(count) + 1,
              ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    if (at + 1 < count) {
      std::copy(ranks + at + 2, ranks + count, ranks + at + 1);
      ranks[at] = rank_at(at);
    }
    if (at > 0) ranks[at - 1] = rank_at(at - 1);
  }
  ids.resize(count);
}

/// Keeps the pairs in a heap.
void Bpe::merge_long(Room& room) const {
  std::vector<Room::Symbol>& symbols = room.symbols;
  std::vector<Room::Candidate>& heap = room.heap;
  const auto later = [](const Room::Candidate& a, const Room::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  constexpr std::int32_t gone = -2;
  const auto at = [&](std::int32_t i) -> Room::Symbol& { return symbols[static_cast<std::size_t>(i)]; };
  const auto count = static_cast<std::int32_t>(room.ids.size());
  symbols.clear();
  heap.clear();
  for (std::int32_t i = 0; i < count; ++i) {
    symbols.push_back({room.ids[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  }
  const auto candidate = [&](std::int32_t i) {
    const Slot& found = find(at(i).id, at(at(i).next).id);
    return Room::Candidate{found.rank, i, found.merged};
  };
  for (std::int32_t i = 0; i + 1 < count; ++i) {
    if (const auto found = candidate(i); found.rank != no_rank) heap.push_back(found);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto push = [&](std::int32_t i) {
    const auto found = candidate(i);
    if (found.rank == no_rank) return;
    heap.push_back(found);
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Room::Candidate best = heap.back();
    heap.pop_back();
    Room::Symbol& left = at(best.position);
    if (left.next < 0 || candidate(best.position).merged != best.merged) continue;  // out of date
    Room::Symbol& right = at(left.next);
    left.id = best.merged;
    left.next = right.next;
    right.next = gone;
    if (left.next >= 0) {
      at(left.next).previous = best.position;
      push(best.position);
    }
    if (left.previous >= 0) push(left.previous);
  }
  room.ids.clear();
  for (std::int32_t i = 0; i >= 0 && i < count; i = at(i).next) room.ids.push_back(at(i).id);
}

}  // namespace hysparse
