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

Var load_balance_loss(Tape& tape, const Routing& routing, std::int64_t seq_len, const TokenSlice& slice) {
  const Var& probabilities = routing.probabilities;
  const std::int64_t experts = probabilities.dim(1), slots = routing.chosen_ids.dim(1);
  const TokenSlice here = slice_of_rows(slice, probabilities.dim(0), seq_len);
  const Stream stream = tape.stream();
  const Tensor shares = Tensor::empty({here.total / seq_len, experts}, DType::f64);  // counts at first
  HYSPARSE_LAUNCH(stream, count_by_sequence, routing.chosen_ids, here.begin, seq_len, shares);
  if (here.group != nullptr) here.group->all_reduce(shares);
  const Tensor losses = Tensor::empty({shares.dim(0)}, DType::f64);
  HYSPARSE_LAUNCH(stream, load_balance_forward, shares, slots, probabilities.value, here.begin, seq_len,
                  losses);

  const Var out = tape.output(
      scalar_tensor(sum(losses), probabilities.value.dtype(), probabilities.value.device()), {probabilities});
  if (!out.requires_grad()) return out;
  const auto input_grad = [stream, shares, begin = here.begin, seq_len, dprobabilities = probabilities.grad,
                           dout = out.grad] {
    const double scale = scalar_value(dout->value());
    const auto [buffer, add] = dprobabilities->target();
    HYSPARSE_LAUNCH(stream, load_balance_backward, shares, begin, seq_len, scale, buffer, add);
  };
  tape.record("load_balance_loss", {out}, input_grad);
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
