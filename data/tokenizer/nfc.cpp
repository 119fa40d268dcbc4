#include "data/tokenizer/nfc.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include <utf8proc.h>

#include "data/tokenizer/unicode.h"

namespace hysparse {
namespace {

// Hangul syllables are computed (Unicode, section 3.12).
constexpr std::uint32_t hangul_s = 0xAC00, hangul_l = 0x1100, hangul_v = 0x1161, hangul_t = 0x11A7;
constexpr std::uint32_t hangul_l_count = 19, hangul_v_count = 21, hangul_t_count = 28;
constexpr std::uint32_t hangul_s_count = hangul_l_count * hangul_v_count * hangul_t_count;

using CodePoints = std::vector<std::uint32_t>;

/// The full canonical decomposition.
CodePoints decompose(std::uint32_t c) {
  std::array<utf8proc_int32_t, 32> to{};
  int last_bound_class = 0;
  const auto count = newer_than_nfc(c) || c >= invalid_code_point
                         ? 0
                         : utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), to.data(),
                                                   static_cast<utf8proc_ssize_t>(to.size()), UTF8PROC_DECOMPOSE,
                                                   &last_bound_class);
  if (count <= 0) return {c};
  return {to.begin(), to.begin() + count};
}

/// Whether form C keeps a character that decomposes.
bool stays(std::uint32_t c) {
  std::string text;
  append_utf8(c, text);
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> normal(
      utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str())), std::free);
  return normal != nullptr && text == reinterpret_cast<const char*>(normal.get());
}

class Tables {
 public:
  Tables() : active_(invalid_code_point + 1) {
    std::vector<std::pair<CodePoints, std::uint32_t>> composed;
    for (std::uint32_t c = 0; c < invalid_code_point; ++c) {
      const bool hangul = c - hangul_s < hangul_s_count;
      if (hangul || newer_than_nfc(c)) continue;
      const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
      if (property->combining_class != 0) {
        active_[c] = 1;
        classes_.emplace(c, static_cast<std::uint8_t>(property->combining_class));
      }
      if (property->decomp_type != 0 || property->decomp_seqindex == UINT16_MAX) continue;
      CodePoints parts = decompose(c);
      if (parts.size() == 1 && parts[0] == c) continue;
      if (!stays(c)) {
        active_[c] = 1;
        continue;
      }
      composed.emplace_back(std::move(parts), c);
    }
    // A composed character has at most one part more than the composed character that it begins with.
    std::stable_sort(composed.begin(), composed.end(),
                     [](const auto& a, const auto& b) { return a.first.size() < b.first.size(); });
    std::map<CodePoints, std::uint32_t> whole;
    for (const auto& [parts, c] : composed) {
      const CodePoints front(parts.begin(), parts.end() - 1);
      const auto first = front.size() == 1 ? whole.end() : whole.find(front);
      if (front.size() > 1 && first == whole.end()) {
        active_[c] = 1;
        continue;
      }
      pairs_.emplace(pair(front.size() == 1 ? front[0] : first->second, parts.back()), c);
      whole.emplace(parts, c);
      active_[parts.back()] = 1;
    }
    std::fill_n(active_.begin() + hangul_v, hangul_v_count, 1);
    std::fill_n(active_.begin() + hangul_t + 1, hangul_t_count - 1, 1);
  }

  /// False: stays as it is, composes with nothing before it and is not moved; form C may be cut in front of it.
  bool active(std::uint32_t c) const { return active_[c] != 0; }
  std::uint8_t combining_class(std::uint32_t c) const {
    if (active_[c] == 0) return 0;
    const auto found = classes_.find(c);
    return found == classes_.end() ? 0 : found->second;
  }
  /// 0: none.
  std::uint32_t compose(std::uint32_t a, std::uint32_t b) const {
    if (a - hangul_l < hangul_l_count && b - hangul_v < hangul_v_count) {
      return hangul_s + ((a - hangul_l) * hangul_v_count + (b - hangul_v)) * hangul_t_count;
    }
    if (a - hangul_s < hangul_s_count && (a - hangul_s) % hangul_t_count == 0 && b > hangul_t &&
        b - hangul_t < hangul_t_count) {
      return a + (b - hangul_t);
    }
    const auto found = pairs_.find(pair(a, b));
    return found == pairs_.end() ? 0 : found->second;
  }

 private:
  static std::uint64_t pair(std::uint32_t a, std::uint32_t b) { return std::uint64_t{a} << 32U | b; }

  std::vector<std::uint8_t> active_;
  std::unordered_map<std::uint32_t, std::uint8_t> classes_;
  std::unordered_map<std::uint64_t, std::uint32_t> pairs_;
};

const Tables& tables() {
  static const Tables tables;
  return tables;
}

/// One stretch: a character that form C may be cut in front of, and the active ones after it.
void compose_stretch(const Tables& tables, const CodePoints& stretch, std::string& to) {
  struct Part {
    std::uint32_t code_point;
    std::uint8_t combining_class;
  };
  std::vector<Part> parts;
  for (const std::uint32_t c : stretch) {
    for (const std::uint32_t d : decompose(c)) parts.push_back({d, tables.combining_class(d)});
  }
  const auto before = [](const Part& a, const Part& b) { return a.combining_class < b.combining_class; };
  for (auto run = parts.begin(); run != parts.end();) {  // marks in order of their class
    const auto end = std::find_if(run, parts.end(), [](const Part& p) { return p.combining_class == 0; });
    std::stable_sort(run, end, before);
    run = end == parts.end() ? end : end + 1;
  }
  std::vector<Part> out;
  std::ptrdiff_t starter = -1;
  for (const Part& part : parts) {
    if (starter >= 0) {
      const bool adjacent = starter + 1 == std::ssize(out);
      const bool blocked = !adjacent && out.back().combining_class >= part.combining_class;
      Part& base = out[static_cast<std::size_t>(starter)];
      const std::uint32_t composed = blocked ? 0 : tables.compose(base.code_point, part.code_point);
      if (composed != 0) {
        base.code_point = composed;
        continue;
      }
    }
    if (part.combining_class == 0) starter = std::ssize(out);
    out.push_back(part);
  }
  for (const Part& part : out) append_utf8(part.code_point, to);
}

}  // namespace

std::string_view normalize_nfc(std::string_view text, std::string& room) {
  const Tables& known = tables();
  const char* const end = text.data() + text.size();
  const char* copied = text.data();  // what is before this is in `room`
  const char* last = nullptr;        // the character before `at`
  bool changed = false;
  CodePoints stretch;
  for (const char* at = text.data(); at < end;) {
    if (static_cast<unsigned char>(*at) < 0x80) {
      last = at++;
      continue;
    }
    const Character c = character_at(at, end);
    if (!known.active(c.code_point)) {
      last = at;
      at += c.bytes;
      continue;
    }
    if (!changed) room.clear();
    changed = true;
    stretch.clear();
    const char* begin = at;
    if (last != nullptr && character_at(last, end).code_point != invalid_code_point) {
      begin = last;
      stretch.push_back(character_at(last, end).code_point);
    }
    for (Character next = c; known.active(next.code_point); next = character_at(at, end)) {
      stretch.push_back(next.code_point);
      at += next.bytes;
      if (at == end) break;
    }
    room.append(copied, begin);
    compose_stretch(known, stretch, room);
    copied = at;
    last = nullptr;
  }
  if (!changed) return text;
  room.append(copied, end);
  return room;
}

}  // namespace hysparse
