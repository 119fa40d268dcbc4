#include "core/ops/embedding.h"

#include "core/backend.h"
#include "core/cpu/embedding.h"
#include "core/cuda/embedding.h"

namespace hysparse {

Var embedding(Tape& tape, const Tensor& ids, const Parameter& weight) {
  return embedding(tape, ids, weight, {.first = 0, .size = weight.value.dim(0)});
}

Var embedding(Tape& tape, const Tensor& ids, const Parameter& weight, const VocabularyRows& rows) {
  HYSPARSE_CHECK(ids.rank() == 1 && ids.dtype() == DType::i32 && weight.value.rank() == 2, "ids {}, {} {}",
                 ids.shape().str(), weight.name, weight.value.shape().str());
  HYSPARSE_CHECK(rows.first >= 0 && rows.first + weight.value.dim(0) <= rows.size, "rows {} + {} of {}",
                 rows.first, weight.value.dim(0), rows.size);
  if (ids.device().is_cpu()) check_tokens(ids, weight.name, rows.size);
  const Stream stream = tape.stream();
  const Tensor y =
      Tensor::empty({ids.dim(0), weight.value.dim(1)}, weight.value.dtype(), weight.value.device());
  HYSPARSE_LAUNCH(stream, embedding_forward, ids, weight.value, rows.first, y);
  const Var parameter = tape.parameter(weight);
  const Var out = tape.output(y, {parameter});
  if (!out.requires_grad()) return out;
  tape.record("embedding", {out}, {}, [stream, ids, first = rows.first, dw = parameter.grad, dout = out.grad] {
    HYSPARSE_LAUNCH(stream, embedding_backward, ids, dout->value(), first, dw->value());
  });
  return out;
}

}  // namespace hysparse
