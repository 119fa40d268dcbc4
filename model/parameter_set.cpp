#include "model/parameter_set.h"

#include <algorithm>

namespace hysparse {
namespace {

/// Buckets are about an eighth of the model, within these bounds: enough of them to overlap, none so small that
/// its latency counts.
constexpr std::int64_t buckets_per_model = 8;
constexpr std::int64_t min_bucket_bytes = std::int64_t{64} << 10;
constexpr std::int64_t max_bucket_bytes = std::int64_t{64} << 20;

ParallelSizes sizes_of(const Mesh& mesh, const ModelLayout& layout) {
  return {mesh.size(Axis::tp), mesh.size(Axis::ep), mesh.size(Axis::etp), mesh.size(Axis::pp), layout};
}

/// Cuts declarations into runs of consecutive layers.
class BucketPlan {
 public:
  struct Run {
    std::vector<FlatParameter> parameters;
    std::int64_t first_layer, last_layer;
    std::int64_t bytes = 0;
    int chunk = 0;
    bool tied = false;
  };

  BucketPlan(std::int64_t num_layers, std::int64_t most_bytes)
      : num_layers_(num_layers), most_bytes_(most_bytes) {}

  void add(const ParameterDeclaration& d, std::int64_t bytes) {
    const bool outside_first = d.layer < 0 && runs_.empty();
    const std::int64_t layer = d.layer >= 0 ? d.layer : outside_first ? -1 : num_layers_;
    const bool tied = d.placement.second_stage >= 0;
    const bool fits = !runs_.empty() && runs_.back().chunk == d.chunk && runs_.back().tied == tied &&
                      (runs_.back().bytes < most_bytes_ || runs_.back().last_layer == layer);
    if (!fits) runs_.push_back({{}, layer, layer, 0, d.chunk, tied});
    Run& run = runs_.back();
    run.parameters.push_back({d.name, d.shape, d.placement, d.weight_decay});
    run.last_layer = layer;
    run.bytes += bytes;
  }
  const std::vector<Run>& runs() const { return runs_; }

 private:
  std::int64_t num_layers_, most_bytes_;
  std::vector<Run> runs_;
};

}  // namespace

ParameterSet::ParameterSet(const ModelConfig& config, const Mesh& mesh, int rank, DType dtype, bool gradients,
                           const ModelLayout& layout)
    : dtype_(dtype), declarations_(declare_parameters(config, sizes_of(mesh, layout))) {
  make_buckets(mesh, rank, gradients);
  for (const ParameterDeclaration& d : declarations_) {
    if (!d.placement.is_held(mesh, rank)) continue;
    Entry& e = entries_.emplace_back(Entry{d, d.placement.local_box(d.shape, mesh, rank), {}});
    by_name_.emplace(d.name, &e);
    if (!d.trainable) e.parameter = {d.name, Tensor::zeros(e.box.shape, dtype), Tensor()};
  }
  for (const Bucket& bucket : buckets_) {
    const std::vector<FlatBuffer::Entry>& entries = bucket.buffer.entries();
    for (std::size_t i = 0; i < entries.size(); ++i)
      by_name_.at(entries[i].declared.name)->parameter = bucket.buffer.parameter(i);
  }
}

void ParameterSet::make_buckets(const Mesh& mesh, int rank, bool gradients) {
  std::int64_t total = 0, layers = 0;
  const auto bytes_of = [&](const ParameterDeclaration& d) {
    return d.placement.local_box(d.shape, mesh, rank).shape.numel() * dtype_size(dtype_);
  };
  for (const ParameterDeclaration& d : declarations_) {
    layers = std::max(layers, d.layer + 1);
    if (d.trainable && d.placement.is_held(mesh, rank)) total += bytes_of(d);
  }
  const std::int64_t bytes = std::clamp(total / buckets_per_model, min_bucket_bytes, max_bucket_bytes);
  BucketPlan dense(layers, bytes), experts(layers, bytes);
  for (const ParameterDeclaration& d : declarations_) {
    if (!d.trainable || !d.placement.is_held(mesh, rank)) continue;
    (d.placement.mesh == MeshKind::dense ? dense : experts).add(d, bytes_of(d));
  }
  for (const auto& [kind, plan] : {std::pair(MeshKind::dense, &dense), std::pair(MeshKind::expert, &experts)}) {
    for (const BucketPlan::Run& run : plan->runs()) {
      buckets_.push_back(
          {FlatBuffer(kind, run.parameters, mesh, rank, dtype_, gradients), run.first_layer, run.chunk});
    }
  }
  std::stable_sort(buckets_.begin(), buckets_.end(),
                   [](const Bucket& a, const Bucket& b) { return a.first_layer < b.first_layer; });
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
