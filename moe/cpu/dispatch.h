/// Kernels that move rows between tokens and the order in which experts work on them. T tokens, k slots, D
/// features; index tensors as in moe/dispatch.h. Outputs alias nothing.
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// out [N, D] = rows of x [T, D] at tokens i32 [N].
void gather_rows(const Stream& stream, const Tensor& x, const Tensor& tokens, const Tensor& out);

/// out [N, D + 2 k]: the features of each row's token, its weights (weights [T, k]), and the row's ids (i32 [N,
/// k]) as numbers of out's dtype: exact up to 2^24 in f32.
void pack_rows(const Stream& stream, const Tensor& x, const Tensor& weights, const Tensor& ids,
               const Tensor& tokens, const Tensor& out);
/// The last two parts of such rows: weights [R, k], ids i32 [R, k].
void unpack_slots(const Stream& stream, const Tensor& rows, const Tensor& weights, const Tensor& ids);

/// out [T, C] = the sum over columns of positions i32 [T, P], in order, of the rows [.., >= first_column + C]
/// there, from first_column on (added when `add`); negative positions give nothing.
void combine_rows(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                  bool add, std::int64_t first_column = 0);

/// out [T, k] = the last column of rows at positions, 0 where negative (added when `add`).
void take_last_column(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                      bool add);

/// out [T, D + k], from rows [M, D + 1] at positions i32 [T, k]: the sum of their first D columns, then the
/// last column of each, 0 where the position is negative.
void combine_gradients(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out);

/// out [M] = flat values at indices i32 [M].
void gather_values(const Stream& stream, const Tensor& values, const Tensor& indices, const Tensor& out);

}  // namespace hysparse::cpu
