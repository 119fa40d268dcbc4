/// From tokens to the rows that experts work on. T tokens, k slots, X experts, D features.
///
/// The experts of a layer lie over a group of ep * etp ranks; rank r of it is ep_i * etp + etp_i. Expert e lies
/// on the etp ranks of ep_i = e / (X / ep), split over them by its width. Every rank of the group has tokens of
/// its own. A token goes once to every rank that holds a part of any of its experts, with the ids and weights
/// of its slots; that rank adds up what its experts make of it and returns one row; the sum over the returned
/// rows is the token's result, the partial sums over the width included.
///
/// Traffic: what one rank puts into all_to_all, in bytes, rows to itself included. With s the dtype's size, N
/// the rows it sends = etp * sum over its tokens of the number of different ep_i among its kept experts, and R
/// the rows it receives (the sums of N and of R over the group are equal):
///
///   forward    8 ep etp             counts of rows and assignments, i64
///              N (D + 2 k) s        to the experts: features, weights and local ids of the k slots
///              R D s                back
///   backward   N D s                to the experts: gradients of results
///              R (D + k) s          back: gradients of features and of weights
///
/// In bf16 weights and ids take two columns each, and rows are filled up to 16 bytes (moe/wire.h).
///
/// On a GPU nothing here waits for it but the constructor of Dispatch, once: the host must know the counts.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tape.h"
#include "parallel/communicator.h"

namespace hysparse {

/// The order in which experts of this rank work: rows sorted by expert, then token, then slot.
struct ExpertOrder {
  Tensor offsets;      ///< i32 [E + 1]: expert e has the sorted rows [offsets[e], offsets[e + 1])
  Tensor sources;      ///< i32 [M]: the token of each sorted row; undefined from offsets[E] on
  Tensor assignments;  ///< i32 [M]: t * k + slot of each
  Tensor positions;    ///< i32 [T, k]: the sorted row of each assignment, -1 where it has none

  std::int64_t rows() const { return sources.numel(); }  ///< M >= offsets[E]
};
/// ids i32 [T, k] in [0, num_experts), negative where a slot has no expert here. `rows` is M: at least as many
/// as ids that are not negative.
ExpertOrder order_by_expert(const Stream& stream, const Tensor& ids, std::int64_t num_experts,
                            std::int64_t rows);

/// The way of one layer's tokens to the ranks of their experts and back, with the adjoints. Made once in
/// forward and kept for backward. Everything but the accessors is collective over the group, in the same order
/// on every rank, also where a rank sends or receives nothing.
class Dispatch {
 public:
  /// expert_ids i32 [T, k], negative where dropped. One exchange of counts, which the host reads.
  Dispatch(const Stream& stream, const Tensor& expert_ids, std::int64_t num_experts, Communicator& group,
           int etp);

  /// Tokens that came here.
  struct Received {
    Tensor rows;     ///< [R, WireRow::with_ids]: the features of each, then what the rest is taken from
    Tensor ids;      ///< i32 [R, k]: among the experts of this rank, -1 where a slot is another's
    Tensor weights;  ///< [R, k]; meaningless where the id is -1
    std::int64_t assignments = 0;  ///< ids that are not negative
  };
  /// x [T, D], weights [T, k]. Adjoint: return_gradient.
  Received send(const Tensor& x, const Tensor& weights) const;
  /// dx [T, D] and dweights [T, k] (each may be null) get the sum of what comes back from rows [R,
  /// WireRow::without_ids]: the gradients of received features and, 0 where the id is -1, of weights.
  void return_gradient(const Tensor& rows, std::int64_t width, Gradient* dx, Gradient* dweights) const;

  /// y [T, D], the sum of what comes back from rows [R, D]. Adjoint: send_gradient.
  Tensor combine(const Tensor& rows) const;
  /// [R, D] from dy [T, D].
  Tensor send_gradient(const Tensor& dy) const;

  std::int64_t sent() const { return tokens_.numel(); }     ///< N
  std::int64_t received() const;                            ///< R
  std::int64_t slots() const { return local_ids_.dim(1); }  ///< k

 private:
  Tensor exchange(const Tensor& sent) const;
  Tensor give_back(const Tensor& received) const;

  Stream stream_;
  Communicator* group_;
  Tensor tokens_;     // i32 [N]: the token of each sent row; rows lie by rank, then token
  Tensor local_ids_;  // i32 [N, k]: its experts on that rank
  Tensor positions_;  // i32 [T, min(k, ep) * etp]: the sent rows of each token, -1 behind them
  std::vector<std::int64_t> send_rows_, receive_rows_;
  std::int64_t received_assignments_ = 0;
};

}  // namespace hysparse
