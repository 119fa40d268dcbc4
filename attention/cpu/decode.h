/// Attention of a few new tokens of one sequence against cached keys: see attention/decode.h.
#pragma once

#include "attention/cpu/attention.h"

namespace hysparse::cpu {

/// attention_forward with one sequence; out alone is overwritten, and `chosen` where it is not null.
void decode_attention(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                      const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks, const Tensor& out,
                      const BlockLists* chosen);

}  // namespace hysparse::cpu
