#include "core/ops/add.h"

#include "core/backend.h"
#include "core/cpu/elementwise.h"
#include "core/cuda/elementwise.h"

namespace hysparse {

void add_in_place(const Stream& stream, const Tensor& out, const Tensor& in) {
  HYSPARSE_CHECK(out.shape() == in.shape() && out.dtype() == in.dtype(), "{} += {}", out.shape().str(),
                 in.shape().str());
  HYSPARSE_LAUNCH(stream, add_in_place, out, in);
}

void add_backward(const Stream& stream, Gradient& dout, const std::shared_ptr<Gradient>& da,
                  const std::shared_ptr<Gradient>& db) {
  const Tensor g = dout.value();
  dout.release();
  if (da && db) {
    if (db->defined()) {
      db->accumulate(stream, g);
    } else {
      db->accumulate(stream, g.clone());
    }
  }
  const auto& keeper = da ? da : db;
  if (keeper) keeper->accumulate(stream, g);
}

Var add(Tape& tape, const Var& a, const Var& b) {
  HYSPARSE_CHECK(a.shape() == b.shape() && a.value.dtype() == b.value.dtype(), "{} + {}", a.shape().str(),
                 b.shape().str());
  const Stream stream = tape.stream();
  const Tensor sum = Tensor::empty(a.shape(), a.value.dtype(), a.value.device());
  HYSPARSE_LAUNCH(stream, add, a.value, b.value, sum);
  const Var out = tape.output(sum, {a, b});
  if (!out.requires_grad()) return out;
  tape.record("add", {out},
              [stream, da = a.grad, db = b.grad, dout = out.grad] { add_backward(stream, *dout, da, db); });
  return out;
}

Var reshape(Tape& tape, const Var& x, Shape shape) {
  const Var out = tape.output(x.value.view(shape), {x});
  if (!out.requires_grad()) return out;
  tape.record("reshape", {out}, [stream = tape.stream(), original = x.shape(), dx = x.grad, dout = out.grad] {
    const Tensor g = dout->value();
    dout->release();
    dx->accumulate(stream, g.view(original));
  });
  return out;
}

}  // namespace hysparse
