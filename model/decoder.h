/// Generation, one token at a time, with a bounded cache: full layers keep the keys and values of every token,
/// followers those of their window, and the oracle's blocks are chosen anew for each token from the cached
/// keys. Computes what the training forward computes at every position.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "model/model.h"

namespace hysparse {

/// Keys and values of one layer.
struct KvCache {
  Tensor k, v;                ///< [capacity, G*E]; a ring when capacity is the window
  std::int64_t capacity = 0;  ///< 0: the layer keeps none
  std::int64_t bytes() const { return capacity == 0 ? 0 : k.bytes() + v.bytes(); }
};

/// Bytes of keys and values at a context of `tokens`, against a model of the same sizes whose layers are all
/// full.
struct KvReport {
  struct Kind {
    std::int64_t layers = 0;
    std::int64_t bytes = 0;
  };
  std::map<LayerType, Kind> kinds;
  std::int64_t total_bytes = 0;
  std::int64_t full_attention_bytes = 0;
};
/// By formula: L_full * 2 G E T + L_follower * 2 G E min(W, T), times the element size. Followers that read
/// their own k and v in the sparse branch (share_kv: false) keep all T; those that keep nothing of their own
/// count 0.
KvReport kv_report(const ModelConfig& config, std::int64_t tokens, DType dtype);

class Decoder {
 public:
  /// For at most `max_tokens` tokens, prompt included. `model` and `ep` (a group of one) must outlive the
  /// decoder.
  Decoder(const Model& model, const Stream& stream, DType dtype, std::int64_t max_tokens);

  /// Takes the next token; returns the logits [V] of the one after it.
  Tensor step(std::int32_t token);

  std::int64_t tokens() const { return position_; }
  /// Bytes of the caches that are allocated.
  std::int64_t cache_bytes() const;

 private:
  Var attention(Tape& tape, std::size_t index, const Var& x);
  void append(std::size_t index, const AttentionLayer::Projections& own);

  const Model& model_;
  Stream stream_;
  std::int64_t max_tokens_;
  std::int64_t position_ = 0;
  std::vector<KvCache> caches_;       // one per layer
  std::size_t oracle_layer_ = 0;      // the last full layer passed in this step
  std::optional<BlockLists> blocks_;  // its choice for this token
};

}  // namespace hysparse
