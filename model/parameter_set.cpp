#include "model/parameter_set.h"

namespace hysparse {
namespace {

ParallelSizes sizes_of(const Mesh& mesh) {
  return {mesh.size(Axis::tp), mesh.size(Axis::ep), mesh.size(Axis::etp), false};
}

std::vector<FlatParameter> trainable(const std::vector<ParameterDeclaration>& declarations) {
  std::vector<FlatParameter> flat;
  for (const ParameterDeclaration& d : declarations) {
    if (d.trainable) flat.push_back({d.name, d.shape, d.placement, d.weight_decay});
  }
  return flat;
}

}  // namespace

ParameterSet::ParameterSet(const ModelConfig& config, const Mesh& mesh, int rank, DType dtype, bool gradients)
    : ParameterSet(declare_parameters(config, sizes_of(mesh)), mesh, rank, dtype, gradients) {}

ParameterSet::ParameterSet(const std::vector<ParameterDeclaration>& declarations, const Mesh& mesh, int rank,
                           DType dtype, bool gradients)
    : dtype_(dtype),
      dense_(MeshKind::dense, trainable(declarations), mesh, rank, dtype, gradients),
      experts_(MeshKind::expert, trainable(declarations), mesh, rank, dtype, gradients) {
  for (const ParameterDeclaration& d : declarations) {
    Entry& e = entries_.emplace_back(Entry{d, d.placement.local_box(d.shape, mesh, rank), {}});
    if (d.trainable) {
      e.parameter = (d.placement.mesh == MeshKind::dense ? dense_ : experts_).parameter(d.name);
    } else {
      e.parameter = {d.name, Tensor::zeros(e.box.shape, dtype), Tensor()};
    }
    by_name_.emplace(d.name, &e);
  }
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
  dense_.gradients().zero_();
  experts_.gradients().zero_();
}

void ParameterSet::initialize(std::uint64_t seed) {
  for (Entry& e : entries_) hysparse::initialize(e.declaration, e.box, seed, e.parameter.value);
}

}  // namespace hysparse
