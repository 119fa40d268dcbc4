/// Which parameters lie in one flat buffer, "bucket": the dense or the expert ones of consecutive layers of one
/// pipeline chunk, so that their gradients can be reduced as soon as backward has passed those layers, while it
/// works on the layers before. A tied embedding has a bucket of its own when two stages hold it. Pure
/// arithmetic: what a step will move can be told without the model.
#pragma once

#include <cstdint>
#include <vector>

#include "model/declaration.h"
#include "parallel/flat_buffer.h"

namespace hysparse {

struct BucketPlan {
  MeshKind kind = MeshKind::dense;
  std::vector<FlatParameter> parameters;  ///< in the order of the declarations
  std::int64_t first_layer = -1;          ///< see ParameterSet::Bucket
  int chunk = 0;                          ///< global pipeline chunk
};

/// The buckets of the trainable parameters that `rank` holds, in the order of the forward pass; the same for
/// all ranks of a stage.
std::vector<BucketPlan> plan_buckets(const std::vector<ParameterDeclaration>& declarations, const Mesh& mesh,
                                     int rank, DType dtype);

}  // namespace hysparse
