#include "model/parameter_set.h"

#include "model/buckets.h"

namespace hysparse {
namespace {

ParallelSizes sizes_of(const Mesh& mesh, const ModelLayout& layout) {
  return {mesh.size(Axis::tp), mesh.size(Axis::ep), mesh.size(Axis::etp), mesh.size(Axis::pp), layout};
}

}  // namespace

ParameterSet::ParameterSet(const ModelConfig& config, const Mesh& mesh, int rank, DType dtype, bool gradients,
                           const ModelLayout& layout, Device device)
    : dtype_(dtype), declarations_(declare_parameters(config, sizes_of(mesh, layout))) {
  for (const BucketPlan& plan : plan_buckets(declarations_, mesh, rank, dtype)) {
    buckets_.push_back({FlatBuffer(plan.kind, plan.parameters, mesh, rank, dtype, gradients, device),
                        plan.first_layer, plan.chunk});
  }
  for (const ParameterDeclaration& d : declarations_) {
    if (!d.placement.is_held(mesh, rank)) continue;
    Entry& e = entries_.emplace_back(Entry{d, d.placement.local_box(d.shape, mesh, rank), {}});
    by_name_.emplace(d.name, &e);
    if (!d.trainable)
      e.parameter = {d.name, Tensor::zeros(e.box.shape, gradient_dtype(dtype), device), Tensor()};
  }
  for (const Bucket& bucket : buckets_) {
    const std::vector<FlatBuffer::Entry>& entries = bucket.buffer.entries();
    for (std::size_t i = 0; i < entries.size(); ++i)
      by_name_.at(entries[i].declared.name)->parameter = bucket.buffer.parameter(i);
  }
}

std::vector<const FlatBuffer*> ParameterSet::buffers() const {
  std::vector<const FlatBuffer*> result;
  for (const Bucket& bucket : buckets_) result.push_back(&bucket.buffer);
  return result;
}

const Parameter* ParameterSet::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &it->second->parameter;
}

const ParameterSet::Entry& ParameterSet::entry(const std::string& name) const {
  const auto it = by_name_.find(name);
  HYSPARSE_CHECK(it != by_name_.end(), "no parameter {}", name);
  return *it->second;
}

const Parameter& ParameterSet::get(const std::string& name) const {
  return entry(name).parameter;
}

void ParameterSet::zero_gradients() {
  for (const Bucket& bucket : buckets_) bucket.buffer.gradients().zero_();
}

void ParameterSet::initialize(std::uint64_t seed) {
  for (Entry& e : entries_) hysparse::initialize(e.declaration, e.box, seed, e.parameter.value);
}

}  // namespace hysparse
