#include "attention/cpu/decode.h"

namespace hysparse::cpu {

void decode_attention(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                      const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks, const Tensor& out,
                      const BlockLists* chosen) {
  const Tensor lse = Tensor::empty({q.dim(0), sizes.num_heads}, accumulation_dtype(q.dtype()));
  attention_forward(stream, sizes, pattern, q, k, v, sinks, out, lse, chosen);
}

}  // namespace hysparse::cpu
