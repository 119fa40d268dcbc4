#include "checkpoint/region.h"

#include <array>

#include "core/error.h"

namespace hysparse {
namespace {

/// Flat index in `box` of the element at global `position`.
std::int64_t flat_index(const Box& box, const std::array<std::int64_t, Shape::max_rank>& position) {
  std::int64_t index = 0;
  for (int d = 0; d < box.shape.rank(); ++d) {
    index = index * box.shape[d] + position[static_cast<std::size_t>(d)] - box.offset[d];
  }
  return index;
}

}  // namespace

Box whole_box(const Shape& shape) {
  Box box{shape, shape};
  for (int d = 0; d < shape.rank(); ++d) box.offset.set(d, 0);
  return box;
}

std::vector<Box> subtract(const Box& from, const Box& cut) {
  Box common;
  if (!intersect(from, cut, &common)) return {from};
  std::vector<Box> rest;
  Box core = from;  // shrinks to `common`, one dim after the other
  for (int d = 0; d < from.shape.rank(); ++d) {
    const std::int64_t begin = core.offset[d], end = begin + core.shape[d];
    const std::int64_t cut_begin = common.offset[d], cut_end = cut_begin + common.shape[d];
    const auto keep = [&](std::int64_t first, std::int64_t last) {
      if (first == last) return;
      Box part = core;
      part.offset.set(d, first);
      part.shape.set(d, last - first);
      rest.push_back(part);
    };
    keep(begin, cut_begin);
    keep(cut_end, end);
    core.offset.set(d, cut_begin);
    core.shape.set(d, common.shape[d]);
  }
  return rest;
}

Region::Region(const Box& box) {
  if (box.shape.numel() > 0) boxes_.push_back(box);
}

std::vector<Box> Region::common(const Box& box) const {
  std::vector<Box> parts;
  Box part;
  for (const Box& own : boxes_) {
    if (intersect(own, box, &part)) parts.push_back(part);
  }
  return parts;
}

void Region::remove(const Box& box) {
  std::vector<Box> left;
  for (const Box& own : boxes_) {
    for (const Box& part : subtract(own, box)) left.push_back(part);
  }
  boxes_ = std::move(left);
}

void for_each_run(const Box& source, const Box& target, const Box& common,
                  const std::function<void(const ElementRun&)>& each) {
  const int rank = common.shape.rank();
  if (common.shape.numel() == 0) return;
  // Dims [outer, rank) form a run: all of them but the first are whole in both boxes.
  int outer = rank;
  std::int64_t count = 1;
  while (outer > 0) {
    --outer;
    count *= common.shape[outer];
    if (common.shape[outer] != source.shape[outer] || common.shape[outer] != target.shape[outer]) break;
  }
  std::array<std::int64_t, Shape::max_rank> position{};
  for (int d = 0; d < rank; ++d) position[static_cast<std::size_t>(d)] = common.offset[d];
  while (true) {
    each({flat_index(source, position), flat_index(target, position), count});
    int d = outer - 1;
    for (; d >= 0; --d) {
      std::int64_t& at = position[static_cast<std::size_t>(d)];
      if (++at < common.offset[d] + common.shape[d]) break;
      at = common.offset[d];
    }
    if (d < 0) return;
  }
}

}  // namespace hysparse
