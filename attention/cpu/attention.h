/// One attention kernel for every pattern of visible keys: causal, sliding window, chosen blocks. Queries are
/// processed in tiles of a few neighbouring tokens times the heads of one group, keys in segments of at
/// most 64.
///
/// Symbols as in attention/attention.h. Keys may lie in a ring: the key of position p is row p % key_rows of
/// its sequence.
#pragma once

#include <cstdint>

#include "attention/attention.h"
#include "core/device.h"
#include "core/tensor.h"

namespace hysparse::cpu {

struct AttentionSizes {
  std::int64_t sequences = 1;
  std::int64_t query_len = 1;  ///< query tokens per sequence
  std::int64_t start = 0;      ///< position of the first query token
  std::int64_t key_rows = 1;   ///< rows of k and v per sequence; all that the queries see must lie there
  std::int64_t num_heads = 1;
  std::int64_t num_kv_heads = 1;
  std::int64_t head_dim = 1;
  std::int64_t group_size() const { return num_heads / num_kv_heads; }
};

/// Which keys s <= t the query at position t sees.
struct KeyPattern {
  enum class Kind { causal, window, blocks } kind = Kind::causal;
  std::int64_t window = 0;  ///< window: s > t - window
  BlockLists blocks;        ///< blocks: s in a chosen block; a list per query row and group
  Tensor documents = {};    ///< any kind: s >= documents[row] too, i32 [S*query_len]; as many keys as queries
};

/// out[t,h] = sum_s p_s v[s,g], lse[t,h] = log(sum_s exp(l_s) + exp(sink_h)), l_s = q.k_s / sqrt(E); -inf and
/// zeros where nothing is seen. q, out [S*query_len, H*E]; k, v [S*key_rows, G*E]; sinks [H] or undefined; lse
/// [S*query_len, H]. All of one float dtype. Overwrites out and lse. `chosen`, for the causal pattern, may be
/// null; else its tensors (blocks [S*query_len, G, K], counts [S*query_len, G]) are overwritten by the oracle's
/// choice, unused entries by -1. Where `scores` [S*query_len, G, N] is defined, `chosen` gives the block size
/// alone and its tensors stay: scores is overwritten by what the choice goes by, -inf for blocks not visible.
void attention_forward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                       const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                       const Tensor& out, const Tensor& lse, const BlockLists* chosen,
                       const Tensor& scores = {});

/// Where backward writes, each a buffer of its own: overwritten, or added to where `add` is set.
struct AttentionGradients {
  Gradient::Target q, k, v;
  Tensor sinks;  ///< [H], always added to; undefined without
};

/// Backward of attention_forward given out, lse and dout = dL/dout [S*query_len, H*E]. Recomputes the
/// probabilities. Each gradient has its own buffer. Deterministic for a fixed number of threads.
void attention_backward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                        const Tensor& out, const Tensor& lse, const Tensor& dout,
                        const AttentionGradients& gradients);

}  // namespace hysparse::cpu
