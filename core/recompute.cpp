#include "core/recompute.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/error.h"

namespace hysparse {
namespace {

using SharedGradient = std::shared_ptr<Gradient>;

/// The options of a tape that differentiates nothing and keeps nothing that goes through tape.save: it only
/// says which outputs want a gradient.
TapeOptions dropping() {
  TapeOptions options;
  options.pack = [](const Tensor&) -> std::function<Tensor()> {
    return [] {
      HYSPARSE_CHECK(false, "a segment's first run was asked for a saved tensor");
      return Tensor();
    };
  };
  return options;
}

/// What backward needs to run a segment again.
struct Again {
  Stream stream;
  TapeOptions options;
  Segment body;
  std::vector<Saved> values;  // of the inputs
  std::vector<SharedGradient> input_gradients;
  std::vector<SharedGradient> output_gradients;  // null where none is wanted

  std::vector<Var> inputs() const {
    std::vector<Var> vars;
    for (std::size_t i = 0; i < values.size(); ++i) vars.push_back({values[i].get(), input_gradients[i]});
    return vars;
  }

  void backward() const {
    Tape tape(stream, options);
    {
      const std::vector<Var> outputs = body(tape, inputs());
      HYSPARSE_CHECK(outputs.size() == output_gradients.size(), "{} and {} outputs", outputs.size(),
                     output_gradients.size());
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        const SharedGradient &from = output_gradients[i], &to = outputs[i].grad;
        HYSPARSE_CHECK((from != nullptr) == (to != nullptr), "output {} wants a gradient in one run only", i);
        if (from == nullptr || from == to || !from->defined()) continue;
        to->accumulate(stream, from->value());
        from->release();
      }
    }
    tape.backward(std::span<const Tape::Root>{});
  }
};

}  // namespace

std::vector<Var> recompute(Tape& tape, std::vector<Var> inputs, Segment body) {
  if (!tape.recording()) return body(tape, inputs);
  std::vector<Var> outputs;
  {
    Tape first(tape.stream(), dropping());
    outputs = body(first, inputs);
  }
  auto again = std::make_shared<Again>(Again{tape.stream(), tape.options(), std::move(body), {}, {}, {}});
  std::vector<Var> made;  // outputs that are not inputs: these have Gradients of their own
  for (const Var& out : outputs) {
    again->output_gradients.push_back(out.grad);
    const bool is_input =
        std::any_of(inputs.begin(), inputs.end(), [&](const Var& in) { return in.grad == out.grad; });
    if (out.grad == nullptr || is_input) continue;
    HYSPARSE_CHECK(!out.grad->defined(), "a segment returned a parameter");
    made.push_back(out);
  }
  if (made.empty()) return outputs;
  for (const Var& in : inputs) {
    again->values.push_back(in.value.defined() ? tape.save(in.value) : Saved());
    again->input_gradients.push_back(in.grad);
  }
  tape.record("recompute", made, [again = std::move(again)] { again->backward(); });
  return outputs;
}

}  // namespace hysparse
