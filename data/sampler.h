/// Windows of seq_len + 1 tokens: the inputs of a sample are the first seq_len, its targets the last seq_len.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/blend.h"
#include "data/token_dataset.h"

namespace hysparse {

/// Windows by their index. Every rank that holds the same files sees the same windows.
class WindowSource {
 public:
  virtual ~WindowSource() = default;
  virtual std::int64_t seq_len() const = 0;
  /// Windows there are before they repeat or end.
  virtual std::int64_t windows() const = 0;
  /// Writes window `index` >= 0 to `out`, seq_len + 1 tokens; unless it is null also to `document_starts`, for
  /// each of them, at which of them its document begins: 0 for the piece of a document that the window's front
  /// cuts, t where token t is its document's first. Throws Error for an id outside the file's vocabulary.
  virtual void fill(std::int64_t index, std::int32_t* out, std::int32_t* document_starts) = 0;
  /// Targets of the window that are the first token of their document, so that no token of it is before them.
  virtual std::int64_t crossings(std::int64_t index) = 0;
};

/// Endless shuffled windows for training, a pure function of (file, seq_len, seed, index). Index i is window i
/// % windows() of epoch i / windows(). In each epoch the documents are permuted and packed in that order into
/// one stream; the windows begin at multiples of seq_len (so that each token but the first is a target once),
/// and are visited in permuted order. The last window is dropped when it is not whole.
///
/// Permutations of the epoch in use are kept: 16 bytes a document and 8 a window. Indices of one epoch after
/// another cost one shuffle an epoch.
class TokenSampler final : public WindowSource {
 public:
  /// `file` must outlive the sampler. Throws Error when it holds fewer than seq_len + 1 tokens.
  TokenSampler(const TokenDataset& file, std::int64_t seq_len, std::uint64_t seed);

  std::int64_t seq_len() const override { return seq_len_; }
  /// Windows of one epoch.
  std::int64_t windows() const override { return windows_; }
  void fill(std::int64_t index, std::int32_t* out, std::int32_t* document_starts) override;
  std::int64_t crossings(std::int64_t index) override;

 private:
  void prepare_epoch(std::int64_t epoch);
  std::int64_t position_of(std::int64_t index);
  std::size_t document_at(std::int64_t position) const;

  const TokenDataset& file_;
  std::int64_t seq_len_;
  std::uint64_t seed_;
  std::int64_t windows_;
  std::int64_t epoch_ = -1;
  std::vector<std::int64_t> documents_;      // in the epoch's order
  std::vector<std::int64_t> stream_begins_;  // where each of them begins in the packed stream
  std::vector<std::int64_t> window_order_;
};

/// The windows of a dataset in order, from its start, for evaluation.
class SequentialWindows final : public WindowSource {
 public:
  /// `tokens` must outlive the windows. Throws Error when it holds fewer than seq_len + 1 tokens.
  SequentialWindows(const TokenDataset& tokens, std::int64_t seq_len);

  std::int64_t seq_len() const override { return seq_len_; }
  std::int64_t windows() const override { return windows_; }
  /// Throws Error when index >= windows().
  void fill(std::int64_t index, std::int32_t* out, std::int32_t* document_starts) override;
  std::int64_t crossings(std::int64_t index) override;

 private:
  void require(std::int64_t index) const;

  const TokenDataset& tokens_;
  std::int64_t seq_len_;
  std::int64_t windows_;
};

/// Several sources in turn, by weights: window i is window `sample` of source `source` of Blend::at(i).
class BlendedWindows final : public WindowSource {
 public:
  /// At least one source, all of one seq_len. Throws the Errors of Blend.
  BlendedWindows(std::vector<std::unique_ptr<WindowSource>> sources, const std::vector<double>& weights);

  std::int64_t seq_len() const override { return sources_.front()->seq_len(); }
  /// Windows before a source repeats or ends.
  std::int64_t windows() const override;
  void fill(std::int64_t index, std::int32_t* out, std::int32_t* document_starts) override;
  std::int64_t crossings(std::int64_t index) override;

 private:
  std::vector<std::unique_ptr<WindowSource>> sources_;
  Blend blend_;
};

}  // namespace hysparse
