#include "core/backend.h"
#include "core/cpu/scalar.h"
#include "core/cuda/scalar.h"
#include "moe/cpu/router.h"
#include "moe/cuda/router.h"
#include "moe/router.h"

namespace hysparse {
namespace {

/// [1], the sum of terms f64 [N] in dtype.
Tensor sum(const Stream& stream, const Tensor& terms, DType dtype) {
  const Tensor total = Tensor::empty({1}, DType::f64, terms.device());
  HYSPARSE_LAUNCH(stream, sum_terms, terms, total);
  return total.to(dtype);
}

}  // namespace

Var load_balance_loss(Tape& tape, const Routing& routing, std::int64_t seq_len, const TokenSlice& slice) {
  const Var& probabilities = routing.probabilities;
  const std::int64_t experts = probabilities.dim(1), slots = routing.chosen_ids.dim(1);
  const TokenSlice here = slice_of_rows(slice, probabilities.dim(0), seq_len);
  const Stream stream = tape.stream();
  const DType dtype = probabilities.value.dtype();
  const Device device = probabilities.value.device();
  const Tensor shares = Tensor::empty({here.total / seq_len, experts}, DType::f64, device);  // counts at first
  HYSPARSE_LAUNCH(stream, count_by_sequence, routing.chosen_ids, here.begin, seq_len, shares);
  if (here.group != nullptr) here.group->all_reduce(shares);
  const Tensor losses = Tensor::empty({shares.dim(0)}, DType::f64, device);
  HYSPARSE_LAUNCH(stream, load_balance_forward, shares, slots, probabilities.value, here.begin, seq_len,
                  losses);

  const Var out = tape.output(sum(stream, losses, dtype), {probabilities});
  if (!out.requires_grad()) return out;
  const auto input_grad = [stream, shares, begin = here.begin, seq_len, dprobabilities = probabilities.grad,
                           dout = out.grad] {
    const auto [buffer, add] = dprobabilities->target();
    HYSPARSE_LAUNCH(stream, load_balance_backward, shares, begin, seq_len, dout->value(), buffer, add);
  };
  tape.record("load_balance_loss", {out}, input_grad);
  return out;
}

Var z_loss(Tape& tape, const Routing& routing) {
  const Var& logits = routing.logits;
  const Stream stream = tape.stream();
  const Tensor lse = Tensor::empty({logits.dim(0)}, logits.value.dtype(), logits.value.device());
  const Tensor losses = Tensor::empty({logits.dim(0)}, DType::f64, logits.value.device());
  HYSPARSE_LAUNCH(stream, z_loss_forward, logits.value, lse, losses);

  const Var out = tape.output(sum(stream, losses, logits.value.dtype()), {logits});
  if (!out.requires_grad()) return out;
  tape.record("z_loss", {out},
              [stream, saved = tape.save(logits.value), lse, dlogits = logits.grad, dout = out.grad] {
                const auto [buffer, add] = dlogits->target();
                HYSPARSE_LAUNCH(stream, z_loss_backward, saved.get(), lse, dout->value(), buffer, add);
              });
  return out;
}

}  // namespace hysparse
