/// Boxes of a tensor as sets of elements: what is left when others are taken away, and copying the common part.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "parallel/placement.h"

namespace hysparse {

/// The whole of a tensor.
Box whole_box(const Shape& shape);

/// from \ cut, as at most 2 * rank disjoint boxes.
std::vector<Box> subtract(const Box& from, const Box& cut);

/// A set of elements that starts as a box and shrinks.
class Region {
 public:
  explicit Region(const Box& box);
  bool empty() const { return boxes_.empty(); }
  /// What it has in common with a box, as disjoint boxes.
  std::vector<Box> common(const Box& box) const;
  void remove(const Box& box);
  /// One of the boxes left.
  const Box& first() const { return boxes_.front(); }

 private:
  std::vector<Box> boxes_;
};

/// A run of elements contiguous in both of two row-major boxes.
struct ElementRun {
  std::int64_t source, target;  ///< flat element indices in either box
  std::int64_t count;
};
/// Calls `each` for the runs of `common` (inside both), in row-major order.
void for_each_run(const Box& source, const Box& target, const Box& common,
                  const std::function<void(const ElementRun&)>& each);

}  // namespace hysparse
