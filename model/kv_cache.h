/// The keys and values that generation keeps of one sequence: full layers those of every token, followers those
/// of their window.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "core/tensor.h"
#include "model/config.h"

namespace hysparse {

/// Bytes of keys and values, against a model of the same sizes whose layers are all full.
struct KvReport {
  struct Kind {
    std::int64_t layers = 0;
    std::int64_t bytes = 0;
  };
  std::map<LayerType, Kind> kinds;
  std::int64_t total_bytes = 0;
  std::int64_t full_attention_bytes = 0;
};
/// By formula, at a context of `tokens`: L_full * 2 G E T + L_follower * 2 G E min(W, T), times the element
/// size. Followers that read their own k and v in the sparse branch (share_kv: false) keep all T; those that
/// keep nothing of their own count 0.
KvReport kv_report(const ModelConfig& config, std::int64_t tokens, DType dtype);

/// Of one layer: rows of G*E elements. The token of position p is in row p % capacity.
struct LayerCache {
  Tensor k, v;                ///< [capacity, G*E]
  std::int64_t capacity = 0;  ///< 0: the layer keeps none
  std::int64_t bytes() const { return capacity == 0 ? 0 : k.bytes() + v.bytes(); }
};

class KvCache {
 public:
  /// Allocates what `capacity` tokens need, prompt and continuation together.
  KvCache(const ModelConfig& config, std::int64_t capacity, DType dtype, Device device = {});

  std::int64_t tokens() const { return tokens_; }
  std::int64_t capacity() const { return capacity_; }
  const LayerCache& layer(std::size_t index) const { return layers_[index]; }
  /// What the tensors take, by kind of layer; full_attention_bytes for the capacity.
  KvReport measure() const;

 private:
  friend class Decoder;
  const std::vector<LayerType> types_;
  std::int64_t capacity_, tokens_ = 0, full_attention_bytes_;
  std::vector<LayerCache> layers_;
};

}  // namespace hysparse
