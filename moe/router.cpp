#include "moe/router.h"

#include "core/backend.h"
#include "core/cpu/matmul.h"
#include "core/cuda/matmul.h"
#include "moe/capacity.h"
#include "moe/cpu/router.h"
#include "moe/cuda/router.h"

namespace hysparse {
namespace {

using cpu::Transpose;

void check_arguments(const Var& x, const Parameter& gate, const Tensor& bias, const MoeConfig& config,
                     const Tensor& chosen) {
  HYSPARSE_CHECK(x.value.rank() == 2 && gate.value.rank() == 2 && x.dim(1) == gate.value.dim(1) &&
                     gate.value.dim(0) == config.num_experts,
                 "x {}, {} {}, {} experts", x.shape().str(), gate.name, gate.value.shape().str(),
                 config.num_experts);
  HYSPARSE_CHECK(config.top_k >= 1 && config.top_k <= config.num_experts, "top_k {} of {} experts",
                 config.top_k, config.num_experts);
  HYSPARSE_CHECK(!bias.defined() || bias.numel() == config.num_experts, "bias {}", bias.shape().str());
  HYSPARSE_CHECK(!chosen.defined() || chosen.shape() == (Shape{x.dim(0), config.top_k}), "x {}, chosen {}",
                 x.shape().str(), chosen.shape().str());
}

}  // namespace

Routing route(Tape& tape, const Var& x, const Parameter& gate, const Tensor& bias, const MoeConfig& config,
              std::int64_t seq_len, const TokenSlice& slice, const Tensor& chosen) {
  check_arguments(x, gate, bias, config, chosen);
  const TokenSlice here = slice_of_rows(slice, x.dim(0), seq_len);
  const Stream stream = tape.stream();
  const DType dtype = accumulation_dtype(x.value.dtype());
  const Device device = x.value.device();
  const std::int64_t tokens = x.dim(0), experts = config.num_experts, k = config.top_k;

  cpu::RouterForward forward;
  forward.logits = Tensor::empty({tokens, experts}, dtype, device);
  HYSPARSE_LAUNCH(stream, matmul, Transpose::no, Transpose::yes, x.value, gate.value, forward.logits, false);
  if (bias.defined()) forward.bias = bias.to(dtype);
  forward.scores = Tensor::empty({tokens, experts}, dtype, device);
  // The scores of a softmax are shares already.
  if (config.scoring == RouterScoring::sigmoid)
    forward.probabilities = Tensor::empty({tokens, experts}, dtype, device);
  forward.chosen = chosen.defined() || config.balanced_routing;
  forward.ids = chosen.defined() ? chosen : Tensor::empty({tokens, k}, DType::i32, device);
  if (config.balanced_routing && !chosen.defined())
    HYSPARSE_LAUNCH(stream, balanced_choices, here.begin, experts, forward.ids);
  forward.weights = Tensor::empty({tokens, k}, dtype, device);
  HYSPARSE_LAUNCH(stream, router_forward, forward, config);

  Routing routing;
  routing.chosen_ids = routing.expert_ids = forward.ids;
  routing.expert_counts = Tensor::empty({experts}, DType::i64, device);
  HYSPARSE_LAUNCH(stream, count_assignments, forward.ids, routing.expert_counts);
  if (config.capacity_factor > 0) {
    routing.expert_ids = forward.ids.clone();
    routing.dropped = drop_over_capacity(stream, routing.expert_ids, forward.weights, config, seq_len, here);
  } else {
    routing.dropped = Tensor::zeros({1}, DType::i64, device);
  }

  const Var parameter = tape.parameter(gate);
  routing.weights = tape.output(forward.weights, {x, parameter});
  routing.logits = tape.output(forward.logits, {x, parameter});
  routing.probabilities =
      tape.output(forward.probabilities.defined() ? forward.probabilities : forward.scores, {x, parameter});
  if (!routing.weights.requires_grad()) return routing;

  const auto dlogits = std::make_shared<Tensor>();  // made by the first closure for both
  const auto input_grad = [stream, config, scores = tape.save(forward.scores), ids = routing.chosen_ids,
                           kept = routing.expert_ids, weight = gate.value, dlogits, dx = x.grad,
                           dweights = routing.weights.grad, direct = routing.logits.grad,
                           dprobabilities = routing.probabilities.grad] {
    cpu::RouterBackward backward{scores.get(),    ids, kept, dweights->value(), dprobabilities->value(),
                                 direct->value(), {}};
    *dlogits = backward.dlogits =
        Tensor::empty(backward.scores.shape(), weight.dtype(), backward.scores.device());
    HYSPARSE_LAUNCH(stream, router_backward, backward, config);
    if (!dx) return;
    const auto [buffer, add] = dx->target();
    HYSPARSE_LAUNCH(stream, matmul, Transpose::no, Transpose::no, *dlogits, weight, buffer, add);
  };
  Tape::Closure weight_grad;
  if (parameter.requires_grad()) {
    weight_grad = [stream, saved = tape.save(x.value), dlogits, dgate = parameter.grad] {
      HYSPARSE_LAUNCH(stream, matmul, Transpose::yes, Transpose::no, *dlogits, saved.get(), dgate->value(),
                      true);
    };
  }
  tape.record("route", {routing.weights, routing.logits, routing.probabilities}, input_grad,
              std::move(weight_grad));
  return routing;
}

}  // namespace hysparse
