/// Kernels that move rows between tokens and the order in which they are sent. T tokens, k slots, N rows, D
/// features; assignments i32 [N] and positions i32 [T, k] as in moe/dispatch.h. Outputs alias nothing.
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// out [N, C], C >= D: the features x [T, D] of each row's token; with C = D + 1 its weight (weights [T, k])
/// behind them.
void gather_assignments(const Stream& stream, const Tensor& x, const Tensor& weights, const Tensor& assignments,
                        std::int64_t slots, const Tensor& out);

/// out [T, D] = the sum over slots, in order, of rows [N, C >= D] at positions (added when `add`); dropped
/// slots give nothing.
void combine_rows(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                  bool add);

/// out [T, k] = the last column of rows at positions, 0 where dropped (added when `add`).
void take_last_column(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                      bool add);

/// out [M] = flat values at indices i32 [M].
void gather_values(const Stream& stream, const Tensor& values, const Tensor& indices, const Tensor& out);
/// out [M] = the last column of rows at indices.
void gather_last_column(const Stream& stream, const Tensor& rows, const Tensor& indices, const Tensor& out);

}  // namespace hysparse::cpu
