/// The sum of the ranks' buffers, in order of rank.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace hysparse::cpu {

/// out[i] = ((s_0[i] + s_1[i]) + s_2[i]) + ..., i < n, for any dtype; bf16 adds in float and rounds once.
/// Overwrites out, which may be one of the sources. On the calling thread.
void ordered_sum(DType dtype, std::span<const void* const> sources, std::int64_t n, void* out);

}  // namespace hysparse::cpu
