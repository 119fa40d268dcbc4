#include "data/sampler.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace hysparse {
namespace {

std::int64_t count_windows(const TokenDataset& tokens, std::int64_t seq_len) {
  HYSPARSE_CHECK(seq_len >= 1, "seq_len {}", seq_len);
  const std::int64_t windows = (tokens.num_tokens() - 1) / seq_len;
  if (windows < 1) {
    throw_error("{}: holds {} tokens, but seq_len {} needs at least {} (seq_len + 1)", tokens.path(),
                tokens.num_tokens(), seq_len, seq_len + 1);
  }
  return windows;
}

/// 0..count-1 in random order (Fisher and Yates, from the end).
std::vector<std::int64_t> permutation(std::int64_t count, const CounterRandom& random) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::uint64_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i, i)]);
  return order;
}

}  // namespace

TokenSampler::TokenSampler(const TokenDataset& file, std::int64_t seq_len, std::uint64_t seed)
    : file_(file), seq_len_(seq_len), seed_(seed), windows_(count_windows(file, seq_len)) {}

void TokenSampler::prepare_epoch(std::int64_t epoch) {
  documents_ =
      permutation(file_.num_documents(), CounterRandom(seed_, fmt::format("data.documents.epoch.{}", epoch)));
  window_order_ = permutation(windows_, CounterRandom(seed_, fmt::format("data.windows.epoch.{}", epoch)));
  stream_begins_.resize(documents_.size());
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < documents_.size(); ++i) {
    stream_begins_[i] = begin;
    begin += file_.document_end(documents_[i]) - file_.document_begin(documents_[i]);
  }
  epoch_ = epoch;
}

/// Where the window begins in the packed stream of its epoch, which is made ready.
std::int64_t TokenSampler::position_of(std::int64_t index) {
  HYSPARSE_CHECK(index >= 0, "index {}", index);
  if (index / windows_ != epoch_) prepare_epoch(index / windows_);
  return window_order_[static_cast<std::size_t>(index % windows_)] * seq_len_;
}

/// The document, in the epoch's order, that holds a position of the stream.
std::size_t TokenSampler::document_at(std::int64_t position) const {
  // The last that begins there or before: ones without tokens begin where the next one does.
  return static_cast<std::size_t>(std::upper_bound(stream_begins_.begin(), stream_begins_.end(), position) -
                                  stream_begins_.begin() - 1);
}

void TokenSampler::fill(std::int64_t index, std::int32_t* out, std::int32_t* document_starts) {
  const std::int64_t first = position_of(index), end = first + seq_len_ + 1;
  std::int64_t position = first;
  for (std::size_t i = document_at(first); position < end; ++i) {  // the documents that the window crosses
    const std::int64_t begin = file_.document_begin(documents_[i]) + (position - stream_begins_[i]);
    const std::int64_t count = std::min(file_.document_end(documents_[i]) - begin, end - position);
    file_.read(begin, std::span(out + (position - first), static_cast<std::size_t>(count)));
    if (document_starts != nullptr)
      std::fill_n(document_starts + (position - first), count, static_cast<std::int32_t>(position - first));
    position += count;
  }
}

std::int64_t TokenSampler::crossings(std::int64_t index) {
  const std::int64_t first = position_of(index), last = first + seq_len_;
  std::int64_t crossings = 0, before = first;
  for (std::size_t i = document_at(first) + 1; i < stream_begins_.size() && stream_begins_[i] <= last; ++i) {
    if (stream_begins_[i] != before) ++crossings;  // some begin at the same place: those without tokens
    before = stream_begins_[i];
  }
  // Without tokens up to the stream's end, which no window includes.
  return crossings;
}

SequentialWindows::SequentialWindows(const TokenDataset& tokens, std::int64_t seq_len)
    : tokens_(tokens), seq_len_(seq_len), windows_(count_windows(tokens, seq_len)) {}

void SequentialWindows::require(std::int64_t index) const {
  HYSPARSE_CHECK(index >= 0, "index {}", index);
  if (index >= windows_) {
    throw_error(
        "{}: holds {} windows of {} tokens, window {} was asked for: use fewer batches or a smaller batch",
        tokens_.path(), windows_, seq_len_ + 1, index);
  }
}

void SequentialWindows::fill(std::int64_t index, std::int32_t* out, std::int32_t* document_starts) {
  require(index);
  const std::int64_t first = index * seq_len_, end = first + seq_len_ + 1;
  tokens_.read(first, std::span(out, static_cast<std::size_t>(seq_len_ + 1)));
  if (document_starts == nullptr) return;
  std::int64_t position = first;
  for (std::int64_t i = tokens_.document_of(first); position < end; ++i) {
    const std::int64_t count = std::min(tokens_.document_end(i), end) - position;
    std::fill_n(document_starts + (position - first), count, static_cast<std::int32_t>(position - first));
    position += count;
  }
}

std::int64_t SequentialWindows::crossings(std::int64_t index) {
  require(index);
  const std::int64_t first = index * seq_len_, last = first + seq_len_;
  std::int64_t crossings = 0, before = first;
  for (std::int64_t i = tokens_.document_of(first); tokens_.document_end(i) <= last; ++i) {
    if (tokens_.document_end(i) != before) ++crossings;
    before = tokens_.document_end(i);
  }
  return crossings;
}

BlendedWindows::BlendedWindows(std::vector<std::unique_ptr<WindowSource>> sources,
                               const std::vector<double>& weights)
    : sources_(std::move(sources)), blend_(weights) {
  HYSPARSE_CHECK(sources_.size() == weights.size(), "{} sources, {} weights", sources_.size(), weights.size());
  for (const auto& source : sources_) {
    HYSPARSE_CHECK(source->seq_len() == seq_len(), "seq_len {} and {}", source->seq_len(), seq_len());
  }
}

std::int64_t BlendedWindows::windows() const {
  std::int64_t windows = std::numeric_limits<std::int64_t>::max();
  for (std::size_t k = 0; k < sources_.size(); ++k)
    windows = std::min(windows, blend_.samples_within(static_cast<std::int64_t>(k), sources_[k]->windows()));
  return windows;
}

void BlendedWindows::fill(std::int64_t index, std::int32_t* out, std::int32_t* document_starts) {
  const Blend::Draw draw = blend_.at(index);
  sources_[static_cast<std::size_t>(draw.source)]->fill(draw.sample, out, document_starts);
}

std::int64_t BlendedWindows::crossings(std::int64_t index) {
  const Blend::Draw draw = blend_.at(index);
  return sources_[static_cast<std::size_t>(draw.source)]->crossings(draw.sample);
}

}  // namespace hysparse
