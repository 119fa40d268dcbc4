/// The collectives around tensor-parallel parts of a layer, as tape ops. A column-parallel linear is the plain
/// `linear` op on a shard of its weight's rows, a row-parallel one on a shard of its columns: both lie between
/// one `enter` and one `leave`. tp ranks all compute the same loss.
///
/// The residual stream [rows, D] lies in one of two layouts:
///   whole  without sequence parallelism: every rank has all rows, and their whole gradient, the same on each
///   parts  with it (SP): rank r of tp has rows [r * rows / tp, (r + 1) * rows / tp), and the gradient of those
///
///   op     value without SP         its adjoint        value under SP    its adjoint
///   enter  x                        all_reduce         all_gather        reduce_scatter
///   leave  all_reduce               dy                 reduce_scatter    all_gather
///   split  this rank's rows         all_gather         x                 dy
///   join   all_gather of the rows   this rank's rows   x                 dy
///
/// Where a tensor is the same on every rank it counts once in these adjoints: enter's result is used by each
/// rank in another way, so its gradient is a sum; leave's and join's results are used alike, so theirs is not.
/// Alone, or in a group of one, every op returns its argument untouched. The backward of each collective must
/// be reached on all ranks of the group, in the same order.
#pragma once

#include <cstdint>

#include "core/tape.h"
#include "parallel/communicator.h"

namespace hysparse {

/// The rows of a flat token dimension that this rank works on.
struct TokenSlice {
  Communicator* group = nullptr;  ///< null: all tokens are here
  std::int64_t begin = 0, end = 0, total = 0;
};

/// A value, cheap to copy.
class TensorParallel {
 public:
  TensorParallel() = default;  ///< alone
  /// The group must outlive this; a group of one is the same as alone.
  TensorParallel(Communicator& group, bool sequence_parallel);

  int size() const { return group_ != nullptr ? group_->size() : 1; }
  int rank() const { return group_ != nullptr ? group_->rank() : 0; }
  bool sequence_parallel() const { return sequence_parallel_; }
  Communicator* group() const { return group_; }  ///< null when alone

  /// From the residual stream into column-parallel linears: all rows [S*T, D], the same on every rank. The
  /// gradients that come back are partial sums.
  Var enter(Tape& tape, const Var& x) const;
  /// Out of row-parallel linears to the residual stream. y: this rank's part of the sum, for all rows.
  Var leave(Tape& tape, const Var& y) const;
  /// From the residual stream to this rank's slice of the tokens, for parts that work token by token.
  Var split(Tape& tape, const Var& x) const;
  /// From the slice of `tokens` = S*T rows back to the residual stream.
  Var join(Tape& tape, const Var& x, std::int64_t tokens) const;

  /// The slice that split takes of `tokens` = S*T rows: [tokens * r / tp, tokens * (r + 1) / tp). Equal parts
  /// under SP, which needs tokens % tp == 0.
  TokenSlice slice(std::int64_t tokens) const;

 private:
  Communicator* group_ = nullptr;
  bool sequence_parallel_ = false;
};

}  // namespace hysparse
