#include "core/ops/swiglu.h"

#include "core/backend.h"
#include "core/cpu/swiglu.h"
#include "core/cuda/swiglu.h"

namespace hysparse {

Var swiglu(Tape& tape, const Var& gate, const Var& up) {
  HYSPARSE_CHECK(gate.shape() == up.shape() && gate.value.dtype() == up.value.dtype(), "gate {}, up {}",
                 gate.shape().str(), up.shape().str());
  const Stream stream = tape.stream();
  const Tensor y = Tensor::empty(gate.shape(), gate.value.dtype(), gate.value.device());
  HYSPARSE_LAUNCH(stream, swiglu_forward, gate.value, up.value, y);
  const Var out = tape.output(y, {gate, up});
  if (!out.requires_grad()) return out;
  tape.record("swiglu", {out},
              [stream, saved_gate = tape.save(gate.value), saved_up = tape.save(up.value), dgate = gate.grad,
               dup = up.grad, dout = out.grad] {
                cpu::SwigluBackward backward{saved_gate.get(), saved_up.get(), dout->value()};
                if (dgate) {
                  const auto [buffer, add] = dgate->target();
                  backward.dgate = buffer;
                  backward.add_gate = add;
                }
                if (dup) {
                  const auto [buffer, add] = dup->target();
                  backward.dup = buffer;
                  backward.add_up = add;
                }
                HYSPARSE_LAUNCH(stream, swiglu_backward, backward);
              });
  return out;
}

}  // namespace hysparse
