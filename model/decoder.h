/// Generation with bounded caches: reads prompts in pieces and goes on token by token, for several sequences at
/// a time. Computes what the training forward computes at every position: the oracle chooses its blocks anew
/// for each token from the cached keys of the full layers; followers read those and their own window. (Where
/// the config gives experts a capacity, generation has none: every token goes to its experts.)
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/kv_cache.h"
#include "model/model.h"

namespace hysparse {

class Decoder {
 public:
  /// `model`, whole and alone, must outlive the decoder.
  Decoder(const Model& model, const Stream& stream) : model_(model), stream_(stream) {}

  /// The next tokens (at least one) of a sequence, whose cache holds what came before them and has room.
  struct Piece {
    KvCache* cache = nullptr;
    std::span<const std::int32_t> tokens;
  };
  enum class Logits { last, all };

  /// Takes the pieces of different sequences: N tokens in all go through projections and experts at once.
  /// Returns the logits of the tokens after: [pieces, V] after each piece's last token, or [N, V] after each.
  /// Memory beside the caches grows with N. Ids are below the vocabulary's size.
  Tensor forward(std::span<const Piece> pieces, Logits logits = Logits::last) const;

  /// Reads `tokens` in pieces of at most `chunk`; returns the logits [1, V] of the token after the last.
  Tensor prefill(KvCache& cache, std::span<const std::int32_t> tokens, std::int64_t chunk) const;

 private:
  const Model& model_;
  Stream stream_;
};

}  // namespace hysparse
