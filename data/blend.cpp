#include "data/blend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace hysparse {
namespace {

__extension__ using Wide = __int128;

constexpr std::int64_t most_index = std::int64_t{1} << 60;
constexpr double least_share = 1e-7;  // a jump costs 1 / share steps

/// weights * 10^digits as whole numbers, when they are whole and their sum stays below 2^53; else nothing.
std::vector<std::int64_t> scaled(const std::vector<double>& weights, double power) {
  constexpr double limit = 0x1p53;
  std::vector<std::int64_t> whole;
  double sum = 0;
  for (const double weight : weights) {
    const double rounded = std::round(weight * power);
    sum += rounded;
    // Both are exact: the quotient is the double nearest to the decimal rounded / power.
    if (sum >= limit || rounded < 1 || rounded / power != weight) return {};
    whole.push_back(static_cast<std::int64_t>(rounded));
  }
  return whole;
}

}  // namespace

std::vector<std::int64_t> whole_weights(const std::vector<double>& weights) {
  HYSPARSE_CHECK(!weights.empty(), "no weights");
  double sum = 0;
  for (const double weight : weights) {
    if (!(weight > 0) || !std::isfinite(weight)) throw_error("weight {}: must be a positive number", weight);
    sum += weight;
  }
  if (!std::isfinite(sum)) throw_error("the weights are too large: their sum is not finite");
  for (const double weight : weights) {
    if (weight < least_share * sum) {
      throw_error("weight {}: must be at least {} of the sum of the weights ({})", weight, least_share, sum);
    }
  }
  std::vector<std::int64_t> whole;
  double power = 1;
  for (int digits = 0; digits <= 22 && whole.empty(); ++digits, power *= 10) whole = scaled(weights, power);
  if (whole.empty()) {
    for (const double weight : weights)
      whole.push_back(static_cast<std::int64_t>(std::llround(weight / sum * 0x1p52)));
  }
  std::int64_t divisor = 0;
  for (const std::int64_t weight : whole) divisor = std::gcd(divisor, weight);
  for (std::int64_t& weight : whole) weight /= divisor;
  return whole;
}

void Blend::Heap::push(Entry entry) {
  std::size_t at = entries_.size();
  entries_.push_back(entry);
  while (at > 0 && entry < entries_[(at - 1) / 2]) {
    entries_[at] = entries_[(at - 1) / 2];
    at = (at - 1) / 2;
  }
  entries_[at] = entry;
}

void Blend::Heap::pop() {
  const Entry last = entries_.back();
  entries_.pop_back();
  const std::size_t size = entries_.size();
  if (size == 0) return;
  std::size_t at = 0;
  for (std::size_t child = 1; child < size; child = 2 * at + 1) {
    if (child + 1 < size && entries_[child + 1] < entries_[child]) ++child;
    if (!(entries_[child] < last)) break;
    entries_[at] = entries_[child];
    at = child;
  }
  entries_[at] = last;
}

Blend::Blend(const std::vector<double>& weights) {
  for (const std::int64_t weight : whole_weights(weights)) {
    sources_.push_back({.weight = weight});
    total_ += weight;
  }
  for (const Source& source : sources_) horizon_ = std::max(horizon_, total_ / source.weight + 2);
  begin_at(0);
}

/// The window of the sample after `given`, from scratch.
void Blend::place(Source& source) const {
  const Wide w = source.weight;
  const Wide end = (static_cast<Wide>(source.given) + 1) * total_;
  source.opens = static_cast<std::int64_t>(static_cast<Wide>(source.given) * total_ / w);
  source.end = static_cast<std::int64_t>(end / w);
  source.remainder = static_cast<std::int64_t>(end % w);
  source.closes = source.end + (source.remainder > 0 ? 1 : 0);
}

/// Counts at `index` that keep to the windows: every source has given the samples whose windows are over, and
/// of those whose windows are open the ones that close first.
void Blend::begin_at(std::int64_t index) {
  std::int64_t left = index;
  std::vector<std::size_t> open;
  for (std::size_t k = 0; k < sources_.size(); ++k) {
    Source& source = sources_[k];
    const Wide share = static_cast<Wide>(source.weight) * index;
    source.given = static_cast<std::int64_t>(share / total_);
    left -= source.given;
    place(source);
    if (share % total_ != 0) open.push_back(k);
  }
  HYSPARSE_CHECK(left >= 0 && left <= static_cast<std::int64_t>(open.size()), "{} of {} open", left,
                 open.size());
  std::sort(open.begin(), open.end(), [&](std::size_t a, std::size_t b) {
    return sources_[a].closes != sources_[b].closes ? sources_[a].closes < sources_[b].closes : a < b;
  });
  for (std::size_t i = 0; i < static_cast<std::size_t>(left); ++i) {
    ++sources_[open[i]].given;
    place(sources_[open[i]]);
  }
  open_.clear();
  later_.clear();
  for (std::size_t k = 0; k < sources_.size(); ++k) later_.push({sources_[k].opens, k});
  next_ = index;
  drawn_ = false;
}

Blend::Draw Blend::draw() {
  while (!later_.empty() && later_.top().index <= next_) {
    const std::size_t k = later_.top().source;
    later_.pop();
    open_.push({sources_[k].closes, k});
  }
  HYSPARSE_CHECK(!open_.empty(), "no source at index {}", next_);
  const std::size_t k = open_.top().source;
  open_.pop();
  Source& source = sources_[k];
  const Draw draw{static_cast<std::int64_t>(k), source.given++};
  source.opens = source.end;
  source.end += total_ / source.weight;
  source.remainder += total_ % source.weight;
  if (source.remainder >= source.weight) {
    source.remainder -= source.weight;
    ++source.end;
  }
  source.closes = source.end + (source.remainder > 0 ? 1 : 0);
  later_.push({source.opens, k});
  ++next_;
  drawn_ = true;
  return last_ = draw;
}

void Blend::seek(std::int64_t index) {
  HYSPARSE_CHECK(index >= 0 && index <= most_index, "index {}", index);
  if (index < next_ || index - next_ > horizon_) begin_at(std::max<std::int64_t>(0, index - horizon_));
  while (next_ < index) draw();
}

Blend::Draw Blend::at(std::int64_t index) {
  if (drawn_ && index == next_ - 1) return last_;
  seek(index);
  return draw();
}

std::vector<std::int64_t> Blend::samples(std::int64_t count) {
  seek(count);
  std::vector<std::int64_t> samples;
  for (const Source& source : sources_) samples.push_back(source.given);
  return samples;
}

std::int64_t Blend::samples_within(std::int64_t source, std::int64_t available) const {
  HYSPARSE_CHECK(source >= 0 && source < sources() && available >= 0, "source {}, {}", source, available);
  const Wide most = static_cast<Wide>(available) * total_ / sources_[static_cast<std::size_t>(source)].weight;
  return most > std::numeric_limits<std::int64_t>::max() ? std::numeric_limits<std::int64_t>::max()
                                                         : static_cast<std::int64_t>(most);
}

}  // namespace hysparse
