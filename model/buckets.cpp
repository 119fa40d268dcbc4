#include "model/buckets.h"

#include <algorithm>

namespace hysparse {
namespace {

/// Buckets are about an eighth of the model, within these bounds: enough of them to overlap, none so small that
/// its latency counts.
constexpr std::int64_t buckets_per_model = 8;
constexpr std::int64_t min_bucket_bytes = std::int64_t{64} << 10;
constexpr std::int64_t max_bucket_bytes = std::int64_t{32} << 20;

/// Cuts declarations of one kind into runs of consecutive layers.
class Runs {
 public:
  Runs(MeshKind kind, std::int64_t num_layers, std::int64_t most_bytes)
      : kind_(kind), num_layers_(num_layers), most_bytes_(most_bytes) {}

  void add(const ParameterDeclaration& d, std::int64_t bytes) {
    const bool outside_first = d.layer < 0 && plans_.empty();
    const std::int64_t layer = d.layer >= 0 ? d.layer : outside_first ? -1 : num_layers_;
    const bool tied = d.placement.second_stage >= 0;
    const bool fits = !plans_.empty() && plans_.back().chunk == d.chunk && tied_ == tied &&
                      (bytes_ < most_bytes_ || last_layer_ == layer);
    if (!fits) {
      plans_.push_back({kind_, {}, layer, d.chunk});
      bytes_ = 0;
    }
    plans_.back().parameters.push_back({d.name, d.shape, d.placement, d.weight_decay});
    last_layer_ = layer;
    tied_ = tied;
    bytes_ += bytes;
  }
  const std::vector<BucketPlan>& plans() const { return plans_; }

 private:
  MeshKind kind_;
  std::int64_t num_layers_, most_bytes_;
  std::vector<BucketPlan> plans_;
  // Of the last one:
  std::int64_t last_layer_ = -1, bytes_ = 0;
  bool tied_ = false;
};

}  // namespace

std::vector<BucketPlan> plan_buckets(const std::vector<ParameterDeclaration>& declarations, const Mesh& mesh,
                                     int rank, DType dtype) {
  std::int64_t total = 0, layers = 0;
  const auto bytes_of = [&](const ParameterDeclaration& d) {
    return d.placement.local_box(d.shape, mesh, rank).shape.numel() * dtype_size(dtype);
  };
  const auto is_here = [&](const ParameterDeclaration& d) {
    return d.trainable && d.placement.is_held(mesh, rank);
  };
  for (const ParameterDeclaration& d : declarations) {
    layers = std::max(layers, d.layer + 1);
    if (is_here(d)) total += bytes_of(d);
  }
  const std::int64_t bytes = std::clamp(total / buckets_per_model, min_bucket_bytes, max_bucket_bytes);
  Runs dense(MeshKind::dense, layers, bytes), experts(MeshKind::expert, layers, bytes);
  for (const ParameterDeclaration& d : declarations) {
    if (is_here(d)) (d.placement.mesh == MeshKind::dense ? dense : experts).add(d, bytes_of(d));
  }
  std::vector<BucketPlan> plans = dense.plans();
  plans.insert(plans.end(), experts.plans().begin(), experts.plans().end());
  std::stable_sort(plans.begin(), plans.end(),
                   [](const BucketPlan& a, const BucketPlan& b) { return a.first_layer < b.first_layer; });
  return plans;
}

}  // namespace hysparse
