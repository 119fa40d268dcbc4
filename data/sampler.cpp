#include "data/sampler.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace hysparse {
namespace {

std::int64_t count_windows(const TokenStream& tokens, std::int64_t seq_len) {
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

TokenSampler::TokenSampler(const TokenFile& file, std::int64_t seq_len, std::uint64_t seed)
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

void TokenSampler::fill(std::int64_t index, std::int32_t* out) {
  HYSPARSE_CHECK(index >= 0, "index {}", index);
  if (index / windows_ != epoch_) prepare_epoch(index / windows_);

  std::int64_t position = window_order_[static_cast<std::size_t>(index % windows_)] * seq_len_;
  const std::int64_t end = position + seq_len_ + 1;
  auto i = static_cast<std::size_t>(std::upper_bound(stream_begins_.begin(), stream_begins_.end(), position) -
                                    stream_begins_.begin() - 1);
  for (; position < end; ++i) {  // the documents that the window crosses
    const std::int64_t begin = file_.document_begin(documents_[i]) + (position - stream_begins_[i]);
    const std::int64_t count = std::min(file_.document_end(documents_[i]) - begin, end - position);
    file_.read(begin, std::span(out, static_cast<std::size_t>(count)));
    out += count;
    position += count;
  }
}

SequentialWindows::SequentialWindows(const TokenStream& tokens, std::int64_t seq_len)
    : tokens_(tokens), seq_len_(seq_len), windows_(count_windows(tokens, seq_len)) {}

void SequentialWindows::fill(std::int64_t index, std::int32_t* out) {
  HYSPARSE_CHECK(index >= 0, "index {}", index);
  if (index >= windows_) {
    throw_error(
        "{}: holds {} windows of {} tokens, window {} was asked for: use fewer batches or a smaller batch",
        tokens_.path(), windows_, seq_len_ + 1, index);
  }
  tokens_.read(index * seq_len_, std::span(out, static_cast<std::size_t>(seq_len_ + 1)));
}

}  // namespace hysparse
