#include "launch/host_values.h"

#include "launch/model_layout.h"

namespace hysparse {
namespace {

/// The flat elements of a local parameter that a piece of the optimizer's state covers: its boxes are runs.
Tensor run_of(const Tensor& value, const Box& box) {
  std::int64_t begin = 0;
  for (int d = 0; d < box.shape.rank(); ++d) begin = begin * value.dim(d) + box.offset[d];
  return value.view({value.numel()}).slice(begin, begin + box.shape.numel());
}

}  // namespace

HostValues::HostValues(const RunConfig& config, ParameterSet& parameters, const ProcessGroups& groups)
    : parameters_(parameters) {
  const std::vector<const FlatBuffer*> buffers = parameters.buffers();
  if (buffers.empty() || buffers.front()->values().device().is_cpu()) return;
  own_ = std::make_unique<ParameterSet>(config.model, groups.mesh, groups.rank, DType::f32, false,
                                        model_layout(config));
}

void HostValues::apply(ShardedOptimizer& optimizer) {
  if (!own_) return;
  for (const StatePiece& piece : optimizer.state()) {
    const Tensor& value = own_->get(piece.name).value;
    piece.value.copy_from(run_of(value, piece.box).view(piece.value.shape()));
  }
  for (const ParameterSet::Entry& entry : parameters_.entries()) {
    if (!entry.declaration.trainable) entry.parameter.value.copy_from(own_->get(entry.declaration.name).value);
  }
  optimizer.gather_parameters();
}

}  // namespace hysparse
