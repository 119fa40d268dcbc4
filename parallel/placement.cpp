#include "parallel/placement.h"

#include <algorithm>

namespace hysparse {
namespace {

/// Ranks of an axis that hold the same part; is this the first of them?
bool is_first_copy(const AxisPlacement& placement, int axis_size, int coordinate) {
  if (!placement.sharded) return coordinate == 0;
  return coordinate % (axis_size / placement.parts) == 0;
}

/// Appends the boxes of [begin, end) within dims [dim, rank) of `shape`; `outer` holds the box of the dims
/// before.
void append_boxes(const Shape& shape, int dim, std::int64_t begin, std::int64_t end, Box outer,
                  std::vector<Box>* boxes) {
  if (begin == end) return;
  if (dim == shape.rank()) {
    boxes->push_back(outer);
    return;
  }
  std::int64_t row = 1;
  for (int d = dim + 1; d < shape.rank(); ++d) row *= shape[d];

  const auto append_rows = [&](std::int64_t first, std::int64_t rows, std::int64_t from, std::int64_t to) {
    Box box = outer;
    box.offset.set(dim, first);
    box.shape.set(dim, rows);
    if (to - from == row) {  // whole rows: all of the dims that follow
      boxes->push_back(box);
    } else {
      append_boxes(shape, dim + 1, from, to, box, boxes);
    }
  };
  const std::int64_t first = begin / row, last = (end - 1) / row;
  if (first == last) return append_rows(first, 1, begin - first * row, end - first * row);
  const std::int64_t whole_begin = (begin + row - 1) / row, whole_end = end / row;
  if (whole_begin > first) append_rows(first, 1, begin - first * row, row);
  if (whole_end > whole_begin) append_rows(whole_begin, whole_end - whole_begin, 0, row);
  if (whole_end == last) append_rows(last, 1, 0, end - last * row);
}

}  // namespace

bool intersect(const Box& a, const Box& b, Box* common) {
  HYSPARSE_CHECK(a.offset.rank() == b.offset.rank() && a.shape.rank() == b.shape.rank(), "ranks {} and {}",
                 a.shape.rank(), b.shape.rank());
  Box result = a;
  for (int d = 0; d < a.shape.rank(); ++d) {
    const std::int64_t begin = std::max(a.offset[d], b.offset[d]);
    const std::int64_t end = std::min(a.offset[d] + a.shape[d], b.offset[d] + b.shape[d]);
    if (begin >= end) return false;
    result.offset.set(d, begin);
    result.shape.set(d, end - begin);
  }
  *common = result;
  return true;
}

std::vector<Box> boxes_of_range(const Shape& shape, std::int64_t begin, std::int64_t end) {
  HYSPARSE_CHECK(0 <= begin && begin <= end && end <= shape.numel(), "[{}, {}) of {}", begin, end, shape.str());
  Box all{shape, shape};
  for (int d = 0; d < shape.rank(); ++d) all.offset.set(d, 0);
  std::vector<Box> boxes;
  append_boxes(shape, 0, begin, end, all, &boxes);
  return boxes;
}

Axis data_axis(MeshKind kind) {
  return kind == MeshKind::dense ? Axis::dp_cp : Axis::edp;
}

int part_of(const AxisPlacement& placement, int axis_size, int coordinate) {
  if (!placement.sharded) return 0;
  HYSPARSE_CHECK(placement.parts >= 1 && axis_size % placement.parts == 0, "parts {} on an axis of {}",
                 placement.parts, axis_size);
  return coordinate / (axis_size / placement.parts);
}

std::vector<std::pair<Axis, AxisPlacement>> Placement::model_axes() const {
  if (mesh == MeshKind::dense) return {{Axis::tp, tp}};
  return {{Axis::ep, ep}, {Axis::etp, etp}};
}

bool Placement::is_held(const Mesh& on, int rank) const {
  const int here = on.coordinate(Axis::pp, rank);
  return here == stage || here == second_stage;
}

Box Placement::local_box(const Shape& global, const Mesh& on, int rank) const {
  HYSPARSE_CHECK(is_held(on, rank), "rank {} is on stage {}, the parameter on {} and {}", rank,
                 on.coordinate(Axis::pp, rank), stage, second_stage);
  Box box{global, global};
  for (int d = 0; d < global.rank(); ++d) box.offset.set(d, 0);
  for (const auto& [axis, placement] : model_axes()) {
    if (!placement.sharded) continue;
    const int part = part_of(placement, on.size(axis), on.coordinate(axis, rank));
    const std::int64_t size = box.shape[placement.dim];
    HYSPARSE_CHECK(size % placement.parts == 0, "dim {} of {} in {} parts on {}", placement.dim, global.str(),
                   placement.parts, axis_name(axis));
    box.shape.set(placement.dim, size / placement.parts);
    box.offset.set(placement.dim, box.offset[placement.dim] + part * (size / placement.parts));
  }
  return box;
}

bool Placement::is_owner(const Mesh& on, int rank) const {
  if (on.coordinate(Axis::pp, rank) != stage) return false;
  for (const auto& [axis, placement] : model_axes()) {
    if (!is_first_copy(placement, on.size(axis), on.coordinate(axis, rank))) return false;
  }
  return true;
}

std::vector<Axis> Placement::partial_axes(const Mesh& on) const {
  std::vector<Axis> axes;
  for (const auto& [axis, placement] : model_axes()) {
    const int size = on.size(axis);
    if (size == 1) continue;
    const bool partial = placement.sharded ? placement.parts < size : placement.grad == Partial::partial;
    if (partial) axes.push_back(axis);
  }
  return axes;
}

}  // namespace hysparse
