/// Which source each sample of a blend comes from, by weights.
///
/// Source k has the share p_k = w_k / W of the samples, w_k a whole number, W their sum. Sample i (from 1) of
/// source k must lie at an index (from 0) of its own window
///
///   floor((i - 1) / p_k) <= index < ceil(i / p_k)
///
/// which says that after any n samples source k has given c_k(n) with |c_k(n) - p_k n| < 1: less than one
/// sample too few or too many. At each index the source comes whose next sample's window is open and ends
/// first: the one that would first fall a whole sample behind its share (ties: the first in the list). That
/// this earliest deadline always finds room is the theorem of Tijdeman (The chairman assignment problem, 1980);
/// the source with the largest deficit, n p_k - c_k, would do for two sources, but lets some of many fall
/// behind by more than one.
///
/// An index far out is found without going through those before it. Wherever one begins, with any counts that
/// keep to the windows in sum, after the longest window that is open there (W / min w samples) the order is the
/// one from index 0: two orders whose sets of open samples differ in a pair (P before Q) keep Q and exchange P
/// for later samples, until one takes Q when the other takes P's successor, at the latest when Q's window ends.
#pragma once

#include <cstdint>
#include <vector>

namespace hysparse {

/// Weights as whole numbers in the same proportion, without a common divisor. Decimals keep their exact ratio
/// (0.7 and 0.3 give 7 and 3) while their sum stays below 2^53; others are rounded to multiples of 2^-52 of the
/// sum. Throws Error for a weight that is not a positive finite number, or is below 1e-7 of the sum.
std::vector<std::int64_t> whole_weights(const std::vector<double>& weights);

class Blend {
 public:
  struct Draw {
    std::int64_t source = 0;
    std::int64_t sample = 0;  ///< of the source: those it has given before
  };

  /// Throws the Errors of whole_weights; there must be a weight.
  explicit Blend(const std::vector<double>& weights);

  std::int64_t sources() const { return static_cast<std::int64_t>(sources_.size()); }
  /// Sample `index` >= 0 of the blend. The last index again is free, a step forward from it costs O(log
  /// sources), anything else at most W / min w such steps.
  Draw at(std::int64_t index);
  /// Samples of each source among the first `count` of the blend.
  std::vector<std::int64_t> samples(std::int64_t count);
  /// The most samples of the blend that surely take no more than `available` of the source.
  std::int64_t samples_within(std::int64_t source, std::int64_t available) const;

 private:
  struct Source {
    std::int64_t weight = 0;
    std::int64_t given = 0;
    std::int64_t end = 0;        // floor((given + 1) / p): where the window after the next one opens
    std::int64_t remainder = 0;  // of that division
    std::int64_t opens = 0;      // window of the next sample: [opens, closes)
    std::int64_t closes = 0;
  };
  struct Entry {
    std::int64_t index;
    std::size_t source;
    bool operator<(const Entry& other) const {
      return index != other.index ? index < other.index : source < other.source;
    }
  };
  /// The smallest on top.
  class Heap {
   public:
    bool empty() const { return entries_.empty(); }
    const Entry& top() const { return entries_.front(); }
    void clear() { entries_.clear(); }
    void push(Entry entry);
    void pop();

   private:
    std::vector<Entry> entries_;
  };

  void seek(std::int64_t index);
  void begin_at(std::int64_t index);
  void place(Source& source) const;
  Draw draw();

  std::vector<Source> sources_;
  std::int64_t total_ = 0;    // W
  std::int64_t horizon_ = 0;  // the longest window
  std::int64_t next_ = 0;     // index of the next draw
  Draw last_;                 // the draw of next_ - 1
  bool drawn_ = false;        // there is one
  Heap open_;                 // by where the window closes
  Heap later_;                // by where the window opens
};

}  // namespace hysparse
