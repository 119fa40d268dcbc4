#include "data/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "data/tokenizer/scanner.h"

namespace hysparse {
namespace {

struct Span {
  std::size_t begin, end;
  bool match;
};

class Splitter {
 public:
  Splitter(const std::vector<SplitStep>& steps, Regex::Room& room,
           const std::function<void(std::string_view)>& word)
      : steps_(steps), room_(room), word_(word) {}

  void run(std::size_t index, std::string_view piece) {
    if (piece.empty()) return;
    if (index == steps_.size()) return word_(piece);
    const SplitStep& step = steps_[index];
    std::string prefixed;
    if (step.prefix_space && piece.front() != ' ') {
      prefixed.reserve(piece.size() + 1);
      prefixed += ' ';
      prefixed += piece;
      piece = prefixed;
    }
    const char* const end = piece.data() + piece.size();
    switch (step.kind) {
      case SplitStep::Kind::whole:
        return run(index + 1, piece);
      case SplitStep::Kind::gpt2:
        return scan(Gpt2Scanner(end), index, piece);
      case SplitStep::Kind::llama3:
        return scan(Llama3Scanner<3>(end), index, piece);
      case SplitStep::Kind::qwen:
        return scan(Llama3Scanner<1>(end), index, piece);
      case SplitStep::Kind::regex:
      case SplitStep::Kind::literal:
      case SplitStep::Kind::digits:
        break;
    }
    std::vector<Span> spans;
    find(step, piece, spans);
    merge(step, spans);
    for (const Span& span : spans) run(index + 1, piece.substr(span.begin, span.end - span.begin));
  }

 private:
  template <class Scan>
  void scan(const Scan& scan, std::size_t index, std::string_view piece) {
    const char* const end = piece.data() + piece.size();
    for (const char* at = piece.data(); at < end;) {
      const char* next = scan(at);
      run(index + 1, {at, next});
      at = next;
    }
  }

  /// Matches and what is between them, in order.
  void find(const SplitStep& step, std::string_view piece, std::vector<Span>& spans) {
    std::size_t from = 0;
    const auto add = [&](std::size_t begin, std::size_t end) {
      if (from < begin) spans.push_back({from, begin, false});
      if (begin < end) spans.push_back({begin, end, true});
      from = end;
    };
    if (step.kind == SplitStep::Kind::literal) {
      for (std::size_t at = 0; (at = piece.find(step.literal, at)) != std::string_view::npos; at = from) {
        add(at, at + step.literal.size());
      }
    } else if (step.kind == SplitStep::Kind::digits) {
      const char* const end = piece.data() + piece.size();
      for (const char* at = piece.data(); at < end;) {
        const Character c = character_at(at, end);
        const auto begin = static_cast<std::size_t>(at - piece.data());
        if (is_digit(c.code_point)) add(begin, begin + c.bytes);
        at += c.bytes;
      }
    } else {
      Regex::Match match{};
      std::optional<std::size_t> last_end;
      for (std::size_t at = 0; at <= piece.size() && step.regex->search(piece, at, room_, match);) {
        if (match.begin == match.end && last_end == match.end) {  // an empty match after a match is none
          const char* here = piece.data() + at;
          at += at < piece.size() ? character_at(here, piece.data() + piece.size()).bytes : 1;
          continue;
        }
        add(match.begin, match.end);
        last_end = at = match.end;
      }
    }
    if (from < piece.size()) spans.push_back({from, piece.size(), false});
  }

  static void merge(const SplitStep& step, std::vector<Span>& spans) {
    if (step.invert) {
      for (Span& span : spans) span.match = !span.match;
    }
    std::vector<Span> out;
    bool previous = false;  // whether the one before was a match
    switch (step.behavior) {
      case SplitBehavior::isolated:
        return;
      case SplitBehavior::removed:
        std::erase_if(spans, [](const Span& span) { return span.match; });
        return;
      case SplitBehavior::contiguous:
        for (const Span& span : spans) {
          if (span.match == previous && !out.empty()) {
            out.back().end = span.end;
          } else {
            out.push_back(span);
          }
          previous = span.match;
        }
        break;
      case SplitBehavior::merged_with_previous:
        for (const Span& span : spans) {
          if (span.match && !previous && !out.empty()) {
            out.back().end = span.end;
          } else {
            out.push_back(span);
          }
          previous = span.match;
        }
        break;
      case SplitBehavior::merged_with_next:
        for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
          if (span->match && !previous && !out.empty()) {
            out.back().begin = span->begin;
          } else {
            out.push_back(*span);
          }
          previous = span->match;
        }
        std::reverse(out.begin(), out.end());
        break;
    }
    spans = std::move(out);
  }

  const std::vector<SplitStep>& steps_;
  Regex::Room& room_;
  const std::function<void(std::string_view)>& word_;
};

}  // namespace

void split_words(const std::vector<SplitStep>& steps, std::string_view text, Regex::Room& room,
                 const std::function<void(std::string_view)>& word) {
  Splitter(steps, room, word).run(0, text);
}

}  // namespace hysparse
