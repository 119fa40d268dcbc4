/// cpu/choose.h with device tensors: scores f32.
#pragma once

#include "attention/cpu/choose.h"

namespace hysparse::cuda {

void choose_blocks(const Stream& stream, const Tensor& scores, std::int64_t first, std::int64_t seq_len,
                   std::int64_t block_size, const Tensor& documents, const Tensor& blocks);
void count_blocks(const Stream& stream, std::int64_t seq_len, std::int64_t block_size, const Tensor& documents,
                  std::int64_t top, const Tensor& counts);

/// Lists and counts for scores [S*T, G, N] of query tokens from position `start` on; seq_len: T; documents:
/// starts on the device, or null.
void choose_for_groups(const Stream& stream, const Tensor& scores, std::int64_t start, std::int64_t seq_len,
                       std::int64_t block_size, const std::int32_t* documents, const Tensor& blocks,
                       const Tensor& counts);

}  // namespace hysparse::cuda
