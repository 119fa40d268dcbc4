#include "moe/experts.h"

#include <optional>

#include "core/backend.h"
#include "moe/cpu/dispatch.h"
#include "moe/cpu/experts.h"
#include "moe/cuda/dispatch.h"
#include "moe/cuda/experts.h"
#include "moe/dispatch.h"
#include "moe/wire.h"

namespace hysparse {
namespace {

/// What the closures of one call share.
struct Context {
  Stream stream;
  std::optional<Dispatch> dispatch;  // absent in a group of one: rows are tokens
  ExpertOrder order;
  cpu::ExpertRows rows;
  cpu::ExpertWeightTensors weights;
  std::int64_t hidden_size, width;
  Tensor slot_weights;  // of the rows' tokens

  Tensor empty(Shape shape) const { return Tensor::empty(shape, weights.gate.dtype(), weights.gate.device()); }
};

/// Made by the backward of inputs for that of the weights.
struct WeightGradientInputs {
  Tensor dout, dout_rows, dgate, dup, hidden;
};

void check_arguments(const Var& x, const Routing& routing, const ExpertWeights& weights,
                     std::int64_t num_experts, const Communicator& group, int etp) {
  const Shape &gate = weights.gate->value.shape(), &down = weights.down->value.shape();
  HYSPARSE_CHECK(gate.rank() == 3 && gate[0] * group.size() == num_experts * etp,
                 "{} experts over {} ranks, etp {}, {} {}", num_experts, group.size(), etp, weights.gate->name,
                 gate.str());
  HYSPARSE_CHECK(x.value.rank() == 2 && x.dim(1) == gate[2], "x {}, {} {}", x.shape().str(), weights.gate->name,
                 gate.str());
  HYSPARSE_CHECK(weights.up->value.shape() == gate && down == (Shape{gate[0], gate[2], gate[1]}),
                 "gate {}, up {}, down {}", gate.str(), weights.up->value.shape().str(), down.str());
  const Shape& ids = routing.expert_ids.shape();
  HYSPARSE_CHECK(ids.rank() == 2 && ids[0] == x.dim(0) && routing.weights.shape() == ids,
                 "x {}, ids {}, weights {}", x.shape().str(), ids.str(), routing.weights.shape().str());
}

/// Brings the tokens to this rank's experts (in a group of one they are there) and sorts them; `source` gets
/// their rows.
std::shared_ptr<Context> make_context(const Stream& stream, const Tensor& x, const Routing& routing,
                                      const ExpertWeights& weights, std::int64_t num_experts,
                                      Communicator& group, int etp, Tensor& source) {
  auto context = std::make_shared<Context>();
  context->stream = stream;
  context->weights = {weights.gate->value, weights.up->value, weights.down->value};
  context->hidden_size = weights.gate->value.dim(2);
  context->width = weights.gate->value.dim(1);
  Dispatch::Received here{x, routing.expert_ids, routing.weights.value, routing.expert_ids.numel()};
  if (group.size() > 1) {
    context->dispatch.emplace(stream, routing.expert_ids, num_experts, group, etp);
    here = context->dispatch->send(x, routing.weights.value);
  }
  source = here.rows;
  context->slot_weights = here.weights;
  context->order = order_by_expert(stream, here.ids, weights.gate->value.dim(0), here.assignments);
  context->rows = {context->order.offsets, context->order.sources, context->order.assignments};
  return context;
}

/// From drows [M, D] and dslots [M] of the sorted rows to the tokens, wherever they are.
void give_input_gradients(const Context& context, const Tensor& drows, const Tensor& dslots, Gradient* dx,
                          Gradient* dweights) {
  const Tensor& positions = context.order.positions;
  if (context.dispatch) {
    const WireRow row = WireRow::without_ids(context.hidden_size, positions.dim(1), drows.dtype());
    const Tensor rows = context.empty({positions.dim(0), row.columns});
    HYSPARSE_LAUNCH(context.stream, pack_gradients, drows, dslots, positions, rows);
    return context.dispatch->return_gradient(rows, context.hidden_size, dx, dweights);
  }
  if (dx != nullptr) {
    const auto [buffer, add] = dx->target();
    HYSPARSE_LAUNCH(context.stream, combine_rows, drows, positions, buffer, add);
  }
  if (dweights != nullptr) {
    const auto [buffer, add] = dweights->target();
    HYSPARSE_LAUNCH(context.stream, take_values, dslots, positions, buffer, add);
  }
}

}  // namespace

Var moe_experts(Tape& tape, const Var& x, const Routing& routing, const ExpertWeights& weights,
                std::int64_t num_experts, Communicator& group, int etp) {
  check_arguments(x, routing, weights, num_experts, group, etp);
  const Stream stream = tape.stream();
  Tensor source;  // of the rows: tokens, or what came from all ranks
  const auto context = make_context(stream, x.value, routing, weights, num_experts, group, etp, source);
  const std::int64_t worked = context->order.rows();
  cpu::ExpertsForward forward{context->rows, context->weights, source, context->slot_weights, {}, {}, {}};
  forward.gate = context->empty({worked, context->width});
  forward.up = context->empty({worked, context->width});
  forward.out = context->empty({worked, context->hidden_size});
  HYSPARSE_LAUNCH(stream, experts_forward, forward);
  const Tensor combined = Tensor::empty({source.dim(0), x.dim(1)}, x.value.dtype(), x.value.device());
  HYSPARSE_LAUNCH(stream, combine_rows, forward.out, context->order.positions, combined, false);
  const Tensor y = context->dispatch ? context->dispatch->combine(combined) : combined;

  const Var gate = tape.parameter(*weights.gate), up = tape.parameter(*weights.up),
            down = tape.parameter(*weights.down);
  // The other ranks of a group need this one in backward, whatever it wants itself.
  const Var out = context->dispatch ? tape.input(y) : tape.output(y, {x, routing.weights, gate, up, down});
  if (!out.requires_grad()) return out;

  const bool wants_weights = gate.requires_grad() || up.requires_grad() || down.requires_grad();
  const auto kept = std::make_shared<WeightGradientInputs>();
  const auto input_grad = [context, saved_gate = tape.save(forward.gate), saved_up = tape.save(forward.up),
                           kept, wants_weights, dx = x.grad, dweights = routing.weights.grad, dy = out.grad] {
    const std::int64_t m = context->order.rows(), d = context->hidden_size, f = context->width;
    const Tensor dout = context->dispatch ? context->dispatch->send_gradient(dy->value()) : dy->value();
    cpu::ExpertsBackward backward{context->rows,
                                  context->weights,
                                  dout,
                                  context->slot_weights,
                                  saved_gate.get(),
                                  saved_up.get(),
                                  {},
                                  {},
                                  {},
                                  {},
                                  {},
                                  {}};
    backward.drows = context->empty({m, d});
    backward.dslots = Tensor::empty({m}, context->slot_weights.dtype(), context->slot_weights.device());
    backward.dgate = context->empty({m, f});
    backward.dup = context->empty({m, f});
    backward.hidden = context->empty({m, f});
    HYSPARSE_LAUNCH(context->stream, experts_backward, backward);
    give_input_gradients(*context, backward.drows, backward.dslots, dx.get(), dweights.get());
    if (wants_weights) *kept = {dout, backward.dout_rows, backward.dgate, backward.dup, backward.hidden};
  };
  Tape::Closure weight_grad;
  if (wants_weights) {
    weight_grad = [context, saved = tape.save(source), kept, dgate = gate.grad, dup = up.grad,
                   ddown = down.grad] {
      cpu::ExpertsWeightGradient gradient{context->rows, saved.get(), kept->dout,   kept->dout_rows,
                                          kept->dgate,   kept->dup,   kept->hidden, {}};
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
