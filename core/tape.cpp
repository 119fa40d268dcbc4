#include "core/tape.h"

#include <algorithm>

#include "core/backend.h"
#include "core/cpu/scalar.h"
#include "core/cuda/scalar.h"

namespace hysparse {

Gradient::Target Gradient::target() {
  if (defined()) return {value_, true};
  value_ = Tensor::empty(shape_, dtype_, device_);
  return {value_, false};
}

void Gradient::accumulate(const Stream& stream, Tensor contribution) {
  HYSPARSE_CHECK(contribution.shape() == shape_ && contribution.dtype() == dtype_, "gradient {} {} for {} {}",
                 contribution.shape().str(), dtype_name(contribution.dtype()), shape_.str(),
                 dtype_name(dtype_));
  if (defined()) {
    add_in_place(stream, value_, contribution);
  } else {
    value_ = std::move(contribution);
  }
}

Tape::Tape(Stream stream, TapeOptions options) : stream_(stream), options_(std::move(options)) {}

Var Tape::input(Tensor value) const {
  Var v{std::move(value), nullptr};
  if (recording()) v.grad = std::make_shared<Gradient>(v.value.shape(), v.value.dtype(), v.value.device());
  return v;
}

Var Tape::parameter(const Parameter& parameter) const {
  HYSPARSE_CHECK(parameter.value.defined(), "parameter {} has no value", parameter.name);
  Var v{parameter.value, nullptr};
  if (recording() && parameter.grad.defined()) v.grad = std::make_shared<Gradient>(parameter.grad);
  return v;
}

Var Tape::output(Tensor value, std::initializer_list<Var> inputs) const {
  const bool wanted =
      recording() && std::any_of(inputs.begin(), inputs.end(), [](const Var& v) { return v.requires_grad(); });
  return wanted ? input(std::move(value)) : constant(std::move(value));
}

Saved Tape::save(const Tensor& tensor) const {
  Saved s;
  if (options_.pack) {
    s.unpack_ = options_.pack(tensor);
  } else {
    s.tensor_ = tensor;
  }
  return s;
}

void Tape::record(const char* name, std::initializer_list<Var> outputs, Closure input_grad,
                  Closure weight_grad) {
  record(name, std::span<const Var>(outputs.begin(), outputs.size()), std::move(input_grad),
         std::move(weight_grad));
}

void Tape::record(const char* name, std::span<const Var> outputs, Closure input_grad, Closure weight_grad) {
  if (!recording()) return;
  Record r{name, {}, std::move(input_grad), std::move(weight_grad)};
  for (const Var& v : outputs) {
    if (v.requires_grad()) r.outputs.push_back(v.grad);
  }
  if (!r.outputs.empty()) records_.push_back(std::move(r));
}

void Tape::seed(std::span<const Root> roots) {
  for (const Root& root : roots) {
    HYSPARSE_CHECK(root.scalar.value.numel() == 1, "root of shape {}", root.scalar.shape().str());
    if (!root.scalar.requires_grad()) continue;
    Tensor g = Tensor::empty(root.scalar.shape(), root.scalar.value.dtype(), root.scalar.value.device());
    HYSPARSE_LAUNCH(stream_, fill, g, root.weight);
    root.scalar.grad->accumulate(stream_, g);
  }
}

void Tape::run_inputs(bool with_weights) {
  HYSPARSE_CHECK(recording(), "backward on a tape that does not record");
  const MemoryScope scope(MemoryPurpose::backward);
  while (!records_.empty()) {
    Record r = std::move(records_.back());
    records_.pop_back();
    const bool reached =
        std::any_of(r.outputs.begin(), r.outputs.end(), [](const auto& g) { return g->defined(); });
    if (!reached) continue;
    if (r.input_grad) r.input_grad();
    r.input_grad = {};
    if (!r.weight_grad) continue;
    if (with_weights) {
      r.weight_grad();
    } else {
      delayed_.push_back(std::move(r));
    }
  }
}

void Tape::backward(std::span<const Root> roots) {
  seed(roots);
  run_inputs(true);
}

void Tape::backward(const Var& output, Tensor gradient) {
  HYSPARSE_CHECK(output.requires_grad());
  output.grad->accumulate(stream_, std::move(gradient));
  run_inputs(true);
}

void Tape::backward_inputs(std::span<const Root> roots) {
  seed(roots);
  run_inputs(false);
}

void Tape::backward_weights() {
  const MemoryScope scope(MemoryPurpose::backward);
  for (Record& r : delayed_) {
    r.weight_grad();
    r.weight_grad = {};
  }
  delayed_.clear();
}

}  // namespace hysparse
