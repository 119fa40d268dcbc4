#include "core/backend.h"
#include "core/ops/scalar.h"
#include "moe/cpu/router.h"
#include "moe/router.h"

namespace hysparse {
namespace {

double sum(const Tensor& terms) {
  double total = 0;
  for (std::int64_t i = 0; i < terms.numel(); ++i) total += terms.data<double>()[i];
  return total;
}

}  // namespace

Var load_balance_loss(Tape& tape, const Routing& routing, std::int64_t seq_len) {
  const Var& probabilities = routing.probabilities;
  const std::int64_t tokens = probabilities.dim(0), experts = probabilities.dim(1);
  HYSPARSE_CHECK(seq_len >= 1 && tokens % seq_len == 0, "{} tokens in sequences of {}", tokens, seq_len);
  const Stream stream = tape.stream();
  const Tensor shares = Tensor::empty({tokens / seq_len, experts}, DType::f64);
  const Tensor losses = Tensor::empty({tokens / seq_len}, DType::f64);
  HYSPARSE_LAUNCH(stream, load_balance_forward, routing.chosen_ids, probabilities.value, shares, losses);

  const Var out = tape.output(
      scalar_tensor(sum(losses), probabilities.value.dtype(), probabilities.value.device()), {probabilities});
  if (!out.requires_grad()) return out;
  tape.record("load_balance_loss", {out},
              [stream, shares, dprobabilities = probabilities.grad, dout = out.grad] {
                const double scale = scalar_value(dout->value());
                const auto [buffer, add] = dprobabilities->target();
                HYSPARSE_LAUNCH(stream, load_balance_backward, shares, scale, buffer, add);
              });
  return out;
}

Var z_loss(Tape& tape, const Routing& routing) {
  const Var& logits = routing.logits;
  const Stream stream = tape.stream();
  const Tensor lse = Tensor::empty({logits.dim(0)}, logits.value.dtype(), logits.value.device());
  const Tensor losses = Tensor::empty({logits.dim(0)}, DType::f64);
  HYSPARSE_LAUNCH(stream, z_loss_forward, logits.value, lse, losses);

  const Var out =
      tape.output(scalar_tensor(sum(losses), logits.value.dtype(), logits.value.device()), {logits});
  if (!out.requires_grad()) return out;
  tape.record("z_loss", {out},
              [stream, saved = tape.save(logits.value), lse, dlogits = logits.grad, dout = out.grad] {
                const double scale = scalar_value(dout->value());
                const auto [buffer, add] = dlogits->target();
                HYSPARSE_LAUNCH(stream, z_loss_backward, saved.get(), lse, scale, buffer, add);
              });
  return out;
}

}  // namespace hysparse
