#include "attention/shared_group.h"

#include <vector>

#include "attention/cpu/choose.h"
#include "attention/cuda/choose.h"
#include "core/backend.h"

namespace hysparse {
namespace {

/// Rows to or from each rank of tp: rows_of(m) for mate m, none for ranks of other groups.
template <class F>
std::vector<std::int64_t> rows_by_rank(const SharedGroup& shared, F&& rows_of) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(shared.tp->size()));
  for (int m = 0; m < shared.ranks; ++m) rows[static_cast<std::size_t>(shared.first + m)] = rows_of(m);
  return rows;
}

}  // namespace

Tensor empty_scores(const BlockLists& lists, const AttentionShape& shape, DType dtype) {
  HYSPARSE_CHECK(shape.num_kv_heads == 1, "{} groups on a rank that shares its group", shape.num_kv_heads);
  const std::int64_t blocks = (shape.seq_len + lists.block_size - 1) / lists.block_size;
  return Tensor::empty({shape.tokens(), 1, blocks}, dtype, lists.blocks.device());
}

void choose_together(const Stream& stream, const Tensor& scores, const AttentionShape& shape,
                     const SharedGroup& shared, const BlockLists& lists) {
  HYSPARSE_CHECK(shared.tp != nullptr && shared.first >= 0 && shared.first <= shared.tp->rank() &&
                     shared.tp->rank() < shared.first + shared.ranks &&
                     shared.first + shared.ranks <= shared.tp->size(),
                 "mates {} + {}", shared.first, shared.ranks);
  const std::int64_t rows = scores.dim(0), blocks = scores.dim(2), top = lists.blocks.dim(2);
  const int mate = shared.tp->rank() - shared.first, mates = shared.ranks;
  const auto begin_of = [&](int m) { return rows * m / mates; };
  const auto length_of = [&](int m) { return begin_of(m + 1) - begin_of(m); };
  const std::int64_t own = length_of(mate);
  const std::vector<std::int64_t> by_chooser = rows_by_rank(shared, length_of);
  const std::vector<std::int64_t> own_by_mate = rows_by_rank(shared, [=](int) { return own; });

  const Tensor received = Tensor::empty({mates * own, blocks}, scores.dtype(), scores.device());
  shared.tp->all_to_all(scores.view({rows, blocks}), by_chooser, received, own_by_mate);

  const Tensor chosen = Tensor::empty({mates * own, top}, DType::i32, scores.device());
  HYSPARSE_LAUNCH(stream, choose_blocks, received.view({mates, own, blocks}), begin_of(mate), shape.seq_len,
                  lists.block_size, shape.documents, chosen.slice(0, own));
  for (int m = 1; m < mates; ++m) chosen.slice(m * own, (m + 1) * own).copy_from(chosen.slice(0, own));
  shared.tp->all_to_all(chosen, own_by_mate, lists.blocks.view({rows, top}), by_chooser);
  HYSPARSE_LAUNCH(stream, count_blocks, shape.seq_len, lists.block_size, shape.documents, top, lists.counts);
}

}  // namespace hysparse
