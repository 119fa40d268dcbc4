#include "attention/rope.h"

#include "attention/cpu/rope.h"
#include "attention/cuda/rope.h"
#include "attention/target.h"
#include "core/backend.h"

namespace hysparse {

Tensor rope_table(const Stream& stream, const RopeConfig& rope, std::int64_t start, std::int64_t length,
                  DType dtype) {
  HYSPARSE_CHECK(rope.rotary_dim >= 0 && rope.rotary_dim % 2 == 0, "rotary_dim {}", rope.rotary_dim);
  HYSPARSE_CHECK(length >= 1 && start >= 0, "sequence of {} from {}", length, start);
  return HYSPARSE_LAUNCH(stream, rope_table, rope.theta, rope.rotary_dim, start, length,
                         accumulation_dtype(dtype));
}

Var qk_norm_rope(Tape& tape, const Var& x, const Parameter* norm_weight, double eps, std::int64_t head_dim,
                 std::int64_t seq_len, const RopeConfig& rope, std::int64_t start, const Tensor& documents) {
  HYSPARSE_CHECK(!documents.defined() || start == 0, "document starts from position {}", start);
  return qk_norm_rope(tape, x, norm_weight, eps, head_dim,
                      rope_table(tape.stream(), rope, start, seq_len, x.value.dtype()), documents);
}

Var qk_norm_rope(Tape& tape, const Var& x, const Parameter* norm_weight, double eps, std::int64_t head_dim,
                 const Tensor& table, const Tensor& documents) {
  HYSPARSE_CHECK(x.shape().rank() == 2 && head_dim >= 1 && x.dim(1) % head_dim == 0, "x {}, head size {}",
                 x.shape().str(), head_dim);
  HYSPARSE_CHECK(table.rank() == 2 && table.dim(0) >= 1 && table.dim(1) <= head_dim &&
                     table.dtype() == accumulation_dtype(x.value.dtype()),
                 "table {} for head size {}", table.shape().str(), head_dim);
  HYSPARSE_CHECK(
      !documents.defined() || (documents.dtype() == DType::i32 && documents.shape() == Shape{x.dim(0)}),
      "document starts {}", documents.shape().str());
  HYSPARSE_CHECK(norm_weight == nullptr || norm_weight->value.shape() == Shape{head_dim}, "norm weight {}",
                 norm_weight->value.shape().str());
  const Stream& stream = tape.stream();
  const Var weight = norm_weight != nullptr ? tape.parameter(*norm_weight) : Var{};
  const cpu::NormRope op{
      .head_dim = head_dim, .table = table, .weight = weight.value, .eps = eps, .documents = documents};
  const Tensor y = Tensor::empty(x.shape(), x.value.dtype(), x.value.device());
  HYSPARSE_LAUNCH(stream, norm_rope_forward, op, x.value, y);
  const Var out = tape.output(y, {x, weight});
  if (!out.requires_grad()) return out;
  tape.record("qk_norm_rope", {out},
              [stream, op, x_saved = norm_weight != nullptr ? tape.save(x.value) : Saved(), dx = x.grad,
               dweight = weight.grad, dout = out.grad] {
                const Tensor& dy = dout->value();
                const Gradient::Target target = target_or_scratch(dx, dy);
                HYSPARSE_LAUNCH(stream, norm_rope_backward, op, x_saved.get(), dy, target.buffer, target.add,
                                dweight ? dweight->value() : Tensor());
              });
  return out;
}

}  // namespace hysparse
