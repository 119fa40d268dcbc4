/// cpu/decode.h with device tensors: dtypes and head sizes as in cuda/attention.h. Few query tokens leave most
/// of a GPU idle when a tile of them walks over all keys by itself: up to most_split_tokens go to kernels that
/// split the keys (decode.cu), more to those of training.
#pragma once

#include "attention/cpu/decode.h"

namespace hysparse::cuda {

inline constexpr std::int64_t most_split_tokens = 4;

void decode_attention(const Stream& stream, const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern,
                      const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks, const Tensor& out,
                      const BlockLists* chosen);

}  // namespace hysparse::cuda
