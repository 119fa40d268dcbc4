#include "core/ops/rms_norm.h"

#include "core/backend.h"
#include "core/cpu/rms_norm.h"
#include "core/cuda/rms_norm.h"
#include "core/ops/add.h"

namespace hysparse {
namespace {

void check_shapes(const Var& x, const Parameter& weight) {
  HYSPARSE_CHECK(
      x.value.rank() >= 1 && weight.value.rank() == 1 && x.dim(x.value.rank() - 1) == weight.value.dim(0),
      "x {}, {} {}", x.shape().str(), weight.name, weight.value.shape().str());
}

Tensor like(const Tensor& t) {
  return Tensor::empty(t.shape(), t.dtype(), t.device());
}

Tensor per_row(const Tensor& x) {
  const std::int64_t width = x.dim(x.rank() - 1);
  return Tensor::empty({width == 0 ? 0 : x.numel() / width}, accumulation_dtype(x.dtype()), x.device());
}

}  // namespace

Var rms_norm(Tape& tape, const Var& x, const Parameter& weight, double eps) {
  check_shapes(x, weight);
  const Stream stream = tape.stream();
  cpu::RmsNormForward forward{.x = x.value, .weight = weight.value, .y = like(x.value), .eps = eps};
  forward.reciprocal = per_row(x.value);
  HYSPARSE_LAUNCH(stream, rms_norm_forward, forward);

  const Var parameter = tape.parameter(weight);
  const Var out = tape.output(forward.y, {x, parameter});
  if (!out.requires_grad()) return out;
  tape.record("rms_norm", {out},
              [stream, saved = tape.save(x.value), weight = weight.value,
               reciprocal = tape.save(forward.reciprocal), dx = x.grad, dw = parameter.grad, dy = out.grad] {
                cpu::RmsNormBackward backward{saved.get(), weight, reciprocal.get(), dy->value()};
                if (dx) {
                  const auto [buffer, add] = dx->target();
                  backward.dx = buffer;
                  backward.add_x = add;
                }
                if (dw) backward.dweight = dw->value();
                HYSPARSE_LAUNCH(stream, rms_norm_backward, backward);
              });
  return out;
}

ResidualNorm add_rms_norm(Tape& tape, const Var& x, const Var& delta, const Parameter& weight, double eps) {
  check_shapes(x, weight);
  HYSPARSE_CHECK(x.shape() == delta.shape(), "x {}, delta {}", x.shape().str(), delta.shape().str());
  const Stream stream = tape.stream();
  cpu::RmsNormForward forward{.x = x.value, .delta = delta.value, .weight = weight.value, .eps = eps};
  forward.sum = like(x.value);
  forward.y = like(x.value);
  forward.reciprocal = per_row(x.value);
  HYSPARSE_LAUNCH(stream, rms_norm_forward, forward);

  const Var parameter = tape.parameter(weight);
  const ResidualNorm out{tape.output(forward.sum, {x, delta}), tape.output(forward.y, {x, delta, parameter})};
  if (!out.norm.requires_grad()) return out;
  tape.record("add_rms_norm", {out.sum, out.norm},
              [stream, saved = tape.save(forward.sum), weight = weight.value,
               reciprocal = tape.save(forward.reciprocal), dx = x.grad, ddelta = delta.grad,
               dw = parameter.grad, dsum = out.sum.grad, dy = out.norm.grad] {
                if (!dy->defined()) return add_backward(stream, *dsum, dx, ddelta);
                cpu::RmsNormBackward backward{saved.get(), weight, reciprocal.get(), dy->value()};
                if (dsum) backward.dsum = dsum->value();
                // The gradient of x is made in place of that of the sum, which nobody else reads any more.
                const bool in_place = dx && !dx->defined() && backward.dsum.defined();
                if (in_place) {
                  dx->accumulate(stream, backward.dsum);
                  dsum->release();
                  backward.dx = backward.dsum;
                } else if (dx) {
                  const auto [buffer, add] = dx->target();
                  backward.dx = buffer;
                  backward.add_x = add;
                }
                if (ddelta) {
                  const auto [buffer, add] = ddelta->target();
                  backward.ddelta = buffer;
                  backward.add_delta = add;
                }
                if (dw) backward.dweight = dw->value();
                HYSPARSE_LAUNCH(stream, rms_norm_backward, backward);
              });
  return out;
}

}  // namespace hysparse
