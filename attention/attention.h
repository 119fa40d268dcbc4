/// The three attentions and the oracle, as tape ops. Shapes: S sequences of T tokens (rows are sequence-major,
/// S*T of them), H query heads, G key/value heads (groups), R = H/G, E head size, B block size, N = ceil(T/B),
/// K chosen blocks. All are causal within a sequence; logits are q.k / sqrt(E); head h belongs to group h / R.
/// With document starts d (AttentionShape::documents) every s below is further bounded to d[t] <= s <= t,
/// softmax, scores and all; blocks stay on the grid of the sequence.
#pragma once

#include <cstdint>
#include <optional>

#include "core/tape.h"
#include "parallel/communicator.h"

namespace hysparse {

struct AttentionShape {
  std::int64_t sequences = 1;     ///< S
  std::int64_t seq_len = 1;       ///< T
  std::int64_t num_heads = 1;     ///< H (of this rank)
  std::int64_t num_kv_heads = 1;  ///< G (of this rank)
  std::int64_t head_dim = 1;      ///< E
  Tensor documents = {};          ///< starts (attention/documents.h), i32 [S*T]; undefined: no masks
  std::int64_t tokens() const { return sequences * seq_len; }
};

/// The blocks each query token and group attends to, chosen by a full layer. Built once per hybrid block
/// and read by every follower.
struct BlockLists {
  std::int64_t block_size = 0;  ///< B, tokens
  Tensor blocks;  ///< i32 [S*T, G, K]: block indices within the sequence, ascending; the first `counts` count
  Tensor counts;  ///< i32 [S*T, G]: number chosen = min(K, visible blocks); 0 only when K is 0
};

/// What a full layer leaves for its followers.
struct Oracle {
  Var k;  ///< [S*T, G*E], post-norm, post-RoPE; gathers gradient from its own layer and every follower
  Var v;  ///< [S*T, G*E]
  BlockLists blocks;
};

struct SelectionConfig {
  std::int64_t block_size = 64;  ///< B
  std::int64_t top_blocks = 16;  ///< K; more than there are blocks: all visible ones
};

/// Uninitialised lists for `query_rows` rows that see up to `keys` keys; K = min(top_blocks, ceil(keys / B)).
BlockLists empty_block_lists(const SelectionConfig& selection, std::int64_t query_rows,
                             std::int64_t num_kv_heads, std::int64_t keys, Device device);

/// Where tp ranks outnumber the groups, ranks [first, first + ranks) of `tp` (the mates) hold heads of the same
/// group, one group each: the oracle's maximum goes over all of them.
struct SharedGroup {
  Communicator* tp = nullptr;  ///< null: each group's heads are on one rank
  int first = 0, ranks = 1;
};

struct FullAttentionResult {
  Var out;                           ///< [S*T, H*E]
  std::optional<BlockLists> blocks;  ///< when a selection was asked for
};

/// out[t,h] = sum_{s<=t} softmax_s(q[t,h].k[s,g] / sqrt(E)) v[s,g], and on request the oracle's choice: the K
/// visible blocks (with a token in [d[t], t]) with the largest max_{h in g, s in block} (logit - lse_h), ties
/// to the lower index. q [S*T, H*E], k, v [S*T, G*E]. No T x T matrix: memory is O(T) per head. With `shared`
/// (G = 1) and a selection, h goes over the heads of all mates, which get the same lists, bitwise: collective
/// over shared.tp, two all_to_alls (scores [S*T, N] to the mate that chooses, lists back). K and V are this
/// rank's copies; their gradients are those of its own heads.
FullAttentionResult full_attention(Tape& tape, const Var& q, const Var& k, const Var& v,
                                   const AttentionShape& shape, const std::optional<SelectionConfig>& selection,
                                   const SharedGroup& shared = {});

/// Attention over the tokens s <= t of t's chosen blocks, with the sink logit sinks[h] ([H], may be
/// null) in the denominator: p_s = exp(l_s) / (sum exp(l) + exp(sink_h)). A row that sees nothing gives zeros.
Var block_sparse_attention(Tape& tape, const Var& q, const Var& k, const Var& v, const BlockLists& blocks,
                           const Parameter* sinks, const AttentionShape& shape);

/// Attention over the last `window` >= 1 tokens, t included: s in (t - window, t]; sink as above.
Var window_attention(Tape& tape, const Var& q, const Var& k, const Var& v, std::int64_t window,
                     const Parameter* sinks, const AttentionShape& shape);

}  // namespace hysparse
