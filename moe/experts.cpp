#include "moe/experts.h"

#include "core/backend.h"
#include "moe/cpu/dispatch.h"
#include "moe/cpu/experts.h"
#include "moe/dispatch.h"

namespace hysparse {
namespace {

/// What the closures of one call share.
struct Context {
  Stream stream;
  DispatchPlan plan;
  Communicator* ep;
  cpu::ExpertRows rows;
  cpu::ExpertWeightTensors weights;
  std::int64_t slots, hidden_size, width;
  Tensor row_weights;  // [M], by sorted row

  bool alone() const { return ep->size() == 1; }
  Tensor empty(Shape shape) const { return Tensor::empty(shape, weights.gate.dtype(), weights.gate.device()); }

  /// From this rank's tokens to the ranks of their experts; undefined weights: features alone. At ep = 1: x
  /// itself.
  Tensor send(const Tensor& x, const Tensor& token_weights) const {
    if (alone()) return x;
    const std::int64_t columns = hidden_size + (token_weights.defined() ? 1 : 0);
    const Tensor sent = empty({plan.sent(), columns}), received = empty({plan.worked(), columns});
    HYSPARSE_LAUNCH(stream, gather_assignments, x, token_weights, plan.assignments, slots, sent);
    ep->all_to_all(sent, plan.send_rows, received, plan.receive_rows);
    return received;
  }

  /// Back from the experts to the order in which this rank sent: the adjoint of send.
  Tensor give_back(const Tensor& worked) const {
    if (alone()) return worked;
    const Tensor returned = empty({plan.sent(), worked.dim(1)});
    ep->all_to_all(worked, plan.receive_rows, returned, plan.send_rows);
    return returned;
  }
};

/// Made by the backward of inputs for that of the weights.
struct WeightGradientInputs {
  Tensor dout_rows, dgate, dup, hidden;
};

void check_arguments(const Var& x, const Routing& routing, const ExpertWeights& weights,
                     std::int64_t num_experts, const Communicator& ep) {
  const Shape &gate = weights.gate->value.shape(), &down = weights.down->value.shape();
  HYSPARSE_CHECK(num_experts % ep.size() == 0 && gate.rank() == 3 && gate[0] == num_experts / ep.size(),
                 "{} experts over {} ranks, {} {}", num_experts, ep.size(), weights.gate->name, gate.str());
  HYSPARSE_CHECK(x.value.rank() == 2 && x.dim(1) == gate[2], "x {}, {} {}", x.shape().str(), weights.gate->name,
                 gate.str());
  HYSPARSE_CHECK(weights.up->value.shape() == gate && down == (Shape{gate[0], gate[2], gate[1]}),
                 "gate {}, up {}, down {}", gate.str(), weights.up->value.shape().str(), down.str());
  const Shape& ids = routing.expert_ids.shape();
  HYSPARSE_CHECK(ids.rank() == 2 && ids[0] == x.dim(0) && routing.weights.shape() == ids,
                 "x {}, ids {}, weights {}", x.shape().str(), ids.str(), routing.weights.shape().str());
}

std::shared_ptr<Context> make_context(const Tape& tape, const Routing& routing, const ExpertWeights& weights,
                                      std::int64_t num_experts, Communicator& ep) {
  auto context = std::make_shared<Context>();
  context->stream = tape.stream();
  context->plan = plan_dispatch(routing.expert_ids, num_experts, ep);
  context->ep = &ep;
  context->rows = {context->plan.offsets, context->plan.sources, ep.size() > 1};
  context->weights = {weights.gate->value, weights.up->value, weights.down->value};
  context->slots = routing.expert_ids.dim(1);
  context->hidden_size = weights.gate->value.dim(2);
  context->width = weights.gate->value.dim(1);
  context->row_weights = context->empty({context->plan.worked()});
  return context;
}

}  // namespace

Var moe_experts(Tape& tape, const Var& x, const Routing& routing, const ExpertWeights& weights,
                std::int64_t num_experts, Communicator& ep) {
  check_arguments(x, routing, weights, num_experts, ep);
  const Stream stream = tape.stream();
  const auto context = make_context(tape, routing, weights, num_experts, ep);
  const DispatchPlan& plan = context->plan;
  const std::int64_t worked = plan.worked();

  // Rows of tokens and their weights, then their experts.
  const Tensor source = context->send(x.value, routing.weights.value);
  if (context->alone()) {
    HYSPARSE_LAUNCH(stream, gather_values, routing.weights.value, plan.assignments, context->row_weights);
  } else {
    HYSPARSE_LAUNCH(stream, gather_last_column, source, plan.sources, context->row_weights);
  }
  cpu::ExpertsForward forward{context->rows, context->weights, source, context->row_weights, {}, {}, {}};
  forward.gate = context->empty({worked, context->width});
  forward.up = context->empty({worked, context->width});
  forward.out = context->empty({worked, context->hidden_size});
  HYSPARSE_LAUNCH(stream, experts_forward, forward);
  const Tensor y = Tensor::empty(x.shape(), x.value.dtype(), x.value.device());
  HYSPARSE_LAUNCH(stream, combine_rows, context->give_back(forward.out), plan.positions, y, false);

  const Var gate = tape.parameter(*weights.gate), up = tape.parameter(*weights.up),
            down = tape.parameter(*weights.down);
  const Var out = tape.output(y, {x, routing.weights, gate, up, down});
  if (!out.requires_grad()) return out;

  const bool wants_weights = gate.requires_grad() || up.requires_grad() || down.requires_grad();
  const auto kept = std::make_shared<WeightGradientInputs>();
  const auto input_grad = [context, saved_gate = tape.save(forward.gate), saved_up = tape.save(forward.up),
                           kept, wants_weights, dx = x.grad, dweights = routing.weights.grad, dy = out.grad] {
    const std::int64_t m = context->plan.worked(), d = context->hidden_size, f = context->width;
    cpu::ExpertsBackward backward{context->rows,
                                  context->weights,
                                  context->send(dy->value(), {}),
                                  context->row_weights,
                                  saved_gate.get(),
                                  saved_up.get(),
                                  {},
                                  {},
                                  {},
                                  {},
                                  {}};
    backward.drows = context->empty({m, d + 1});
    backward.dout_rows = context->empty({m, d});
    backward.dgate = context->empty({m, f});
    backward.dup = context->empty({m, f});
    backward.hidden = context->empty({m, f});
    HYSPARSE_LAUNCH(context->stream, experts_backward, backward);
    const Tensor rows = context->give_back(backward.drows);
    if (dx) {
      const auto [buffer, add] = dx->target();
      HYSPARSE_LAUNCH(context->stream, combine_rows, rows, context->plan.positions, buffer, add);
    }
    if (dweights) {
      const auto [buffer, add] = dweights->target();
      HYSPARSE_LAUNCH(context->stream, take_last_column, rows, context->plan.positions, buffer, add);
    }
    if (wants_weights) *kept = {backward.dout_rows, backward.dgate, backward.dup, backward.hidden};
  };
  Tape::Closure weight_grad;
  if (wants_weights) {
    weight_grad = [context, saved = tape.save(source), kept, dgate = gate.grad, dup = up.grad,
                   ddown = down.grad] {
      cpu::ExpertsWeightGradient gradient{context->rows, saved.get(), kept->dout_rows, kept->dgate, kept->dup,
                                          kept->hidden,  {}};
      if (dgate) gradient.dweights.gate = dgate->value();
      if (dup) gradient.dweights.up = dup->value();
      if (ddown) gradient.dweights.down = ddown->value();
      HYSPARSE_LAUNCH(context->stream, experts_weight_gradient, gradient);
    };
  }
  tape.record("moe_experts", {out}, input_grad, std::move(weight_grad));
  return out;
}

}  // namespace hysparse
