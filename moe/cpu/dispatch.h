/// Kernels that order assignments by expert and move rows between tokens and experts. T tokens, k slots, D
/// features, M sorted rows; index tensors as in moe/dispatch.h. Outputs alias nothing.
///
/// Rows that travel hold D features, then k weights and k ids (WireRow in moe/wire.h says where). Weights are
/// in the accumulation dtype of the features: f32 with bf16 and f32, f64 with f64.
#pragma once

#include "core/tensor.h"
#include "moe/wire.h"

namespace hysparse::cpu {

/// offsets i32 [E + 1], sources and assignments i32 [M], positions i32 [T, k] from ids i32 [T, k], negative
/// where a slot has no expert. M is a bound: entries from offsets[E] on are not written.
struct OrderByExpert {
  Tensor ids;
  Tensor offsets, sources, assignments, positions;
};
void order_by_expert(const Stream& stream, const OrderByExpert& args);

/// owners i32 [T, P]: the different owners id / local_experts of a token's experts, by the first slot that
/// names each, -1 behind them; assignments i64 [ep]: slots by owner.
void list_owners(const Stream& stream, const Tensor& ids, std::int64_t local_experts, const Tensor& owners,
                 const Tensor& assignments);
/// counts i64 [ep * copies]: for each rank of an owner the rows it is sent, offsets[owner + 1] -
/// offsets[owner], and its assignments, as rows + 2^32 * assignments.
void count_destinations(const Stream& stream, const Tensor& offsets, const Tensor& assignments,
                        std::int64_t copies, const Tensor& counts);
/// Rows in order of rank, then token, from owners [T, P] and their order (offsets [ep + 1], positions [T, P]).
struct PlanRows {
  Tensor ids, owners, offsets, owner_positions;
  std::int64_t local_experts, copies;
  Tensor tokens;     ///< i32 [N]: the token of each row
  Tensor local_ids;  ///< i32 [N, k]: its experts among those of the rank, -1 where a slot is another's
  Tensor positions;  ///< i32 [T, P * copies]: the rows of each token, -1 behind them
};
void plan_rows(const Stream& stream, const PlanRows& args);

/// out [N, D] = rows of x [T, D] at tokens i32 [N].
void gather_rows(const Stream& stream, const Tensor& x, const Tensor& tokens, const Tensor& out);

/// out [N, WireRow::with_ids]: the features of each row's token, its weights [T, k], and the row's ids i32 [N,
/// k].
void pack_rows(const Stream& stream, const Tensor& x, const Tensor& weights, const Tensor& ids,
               const Tensor& tokens, const Tensor& out);
/// The last two parts of such rows, of `width` features: weights [R, k], ids i32 [R, k].
void unpack_slots(const Stream& stream, const Tensor& rows, std::int64_t width, const Tensor& weights,
                  const Tensor& ids);

/// out [T, C] = the sum over columns of positions i32 [T, P], in order, of the first C columns of the rows [..,
/// >= C] there (added when `add`); negative positions give nothing. Accumulated in f32 when out is bf16.
void combine_rows(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                  bool add);
/// The same of the weights [T, k] in rows of `width` features and weights.
void combine_slots(const Stream& stream, const Tensor& rows, std::int64_t width, const Tensor& positions,
                   const Tensor& out, bool add);

/// out [T, k] = values [M] at positions, 0 where negative (added when `add`).
void take_values(const Stream& stream, const Tensor& values, const Tensor& positions, const Tensor& out,
                 bool add);

/// out [T, WireRow::without_ids], from rows [M, D] and values [M] at positions i32 [T, k]: the sum of the rows,
/// then the value of each slot, 0 where the position is negative.
void pack_gradients(const Stream& stream, const Tensor& rows, const Tensor& values, const Tensor& positions,
                    const Tensor& out);

}  // namespace hysparse::cpu
