#include "parallel/vocabulary.h"

#include "core/ops/embedding.h"

namespace hysparse {
namespace {

VocabularyRows rows_of(const Parameter& table, const TensorParallel& tp) {
  const std::int64_t held = table.value.dim(0);
  return {.first = held * tp.rank(), .size = held * tp.size()};
}

}  // namespace

Var vocabulary_embedding(Tape& tape, const Tensor& ids, const Parameter& weight, const TensorParallel& tp) {
  if (tp.group() == nullptr) return embedding(tape, ids, weight);
  return tp.leave(tape, embedding(tape, ids, weight, rows_of(weight, tp)));
}

CrossEntropy vocabulary_cross_entropy(Tape& tape, const Var& x, const Parameter& head, const Tensor& targets,
                                      const TensorParallel& tp) {
  if (tp.group() == nullptr) return linear_cross_entropy(tape, x, head, targets);
  const GatherParts gather = [&](const Tensor& part) {
    const Tensor parts = Tensor::empty({tp.size(), part.dim(0), 2}, part.dtype(), part.device());
    tp.group()->all_gather(part, parts);
    return parts;
  };
  return linear_cross_entropy(tape, tp.enter(tape, x), head, targets, rows_of(head, tp), gather);
}

}  // namespace hysparse
