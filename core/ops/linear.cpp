#include "core/ops/linear.h"

#include "core/backend.h"
#include "core/cpu/matmul.h"
#include "core/cuda/matmul.h"

namespace hysparse {

using cpu::Transpose;

Var linear(Tape& tape, const Var& x, const Parameter& w) {
  HYSPARSE_CHECK(x.value.rank() == 2 && w.value.rank() == 2 && x.dim(1) == w.value.dim(1), "x {}, {} {}",
                 x.shape().str(), w.name, w.value.shape().str());
  const Stream stream = tape.stream();
  const Tensor weight = w.value;
  const Tensor y = Tensor::empty({x.dim(0), weight.dim(0)}, x.value.dtype(), x.value.device());
  HYSPARSE_LAUNCH(stream, matmul, Transpose::no, Transpose::yes, x.value, weight, y, false);

  const Var parameter = tape.parameter(w);
  const Var out = tape.output(y, {x, parameter});
  if (!out.requires_grad()) return out;
  Tape::Closure input_grad, weight_grad;
  if (x.requires_grad()) {
    input_grad = [stream, weight, dx = x.grad, dy = out.grad] {
      const auto [buffer, add] = dx->target();
      HYSPARSE_LAUNCH(stream, matmul, Transpose::no, Transpose::no, dy->value(), weight, buffer, add);
    };
  }
  if (parameter.requires_grad()) {
    weight_grad = [stream, saved = tape.save(x.value), dw = parameter.grad, dy = out.grad] {
      HYSPARSE_LAUNCH(stream, matmul, Transpose::yes, Transpose::no, dy->value(), saved.get(), dw->value(),
                      true);
    };
  }
  tape.record("linear", {out}, std::move(input_grad), std::move(weight_grad));
  return out;
}

}  // namespace hysparse
