/// Which layers lie on which pipeline chunk. A hybrid block (a full layer and the layers that read its oracle)
/// is never split, so keys, values and block lists never cross stages; whole blocks are placed so that the
/// dearest chunk is as cheap as can be. docs/pipeline.md.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace hysparse {

/// Layers [first_layer, last_layer).
struct ChunkRange {
  std::int64_t first_layer = 0, last_layer = 0;

  std::int64_t size() const { return last_layer - first_layer; }
  friend bool operator==(const ChunkRange&, const ChunkRange&) = default;
};

/// The parts that are never split, in order: a full layer up to the last sparse layer before the next full one,
/// sliding layers between them included. Every other layer (full without sparse followers, sliding before the
/// first full layer or behind the last follower) is one of its own.
std::vector<ChunkRange> hybrid_atoms(const ModelConfig& config);

/// Modelled work of one token in forward and backward, in FLOPs: 6 per weight of a matrix that it meets (the
/// router, top_k of the experts and the shared ones in MoE layers) and 12 H E per visible key, the mean over a
/// window of seq_len: (seq_len + 1) / 2 keys in full layers, at most K B chosen ones in sparse layers, at most
/// the sliding window in window branches. Norms, gates' products and softmax do not count.
double layer_flops(const ModelConfig& config, std::int64_t layer, std::int64_t seq_len);
/// The gathered row and the addition of its gradient, D each.
double embedding_flops(const ModelConfig& config);
/// The head over the vocabulary: 6 D V.
double head_flops(const ModelConfig& config);

/// Modelled work of each chunk: its layers, and the embedding with the first, the head with the last.
std::vector<double> chunk_flops(const ModelConfig& config, std::int64_t seq_len,
                                const std::vector<ChunkRange>& chunks);

/// stages * virtual_stages runs of whole atoms, by global chunk (chunk c lies on stage c % stages). Minimises
/// the dearest chunk; of those partitions takes the one with the least sum of squares, then the one that gives
/// early chunks fewer layers (early stages hold more micro-batches). Costs are compared in whole units of
/// 2^-30 of the model, so ties are ties everywhere.
/// Throws Error when there are more chunks than atoms, naming parallel.pp, parallel.virtual_stages, the number
/// of atoms and the sizes that work.
std::vector<ChunkRange> partition(const ModelConfig& config, std::int64_t seq_len, int stages,
                                  int virtual_stages);

}  // namespace hysparse
