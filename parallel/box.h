/// Walks over boxes of a tensor (parallel/placement.h).
#pragma once

#include <array>
#include <cstdint>

#include "parallel/placement.h"

namespace hysparse {

/// Visits the elements of a box of a tensor of shape `global`, in row-major order: f(index in the box, index in
/// the tensor).
template <class F>
void for_each_element(const Shape& global, const Box& box, F&& f) {
  const int rank = global.rank();
  std::array<std::int64_t, Shape::max_rank> i{};
  for (std::int64_t local = 0; local < box.shape.numel(); ++local) {
    std::int64_t flat = 0;
    for (int d = 0; d < rank; ++d) flat = flat * global[d] + box.offset[d] + i[static_cast<std::size_t>(d)];
    f(local, flat);
    for (int d = rank - 1; d >= 0; --d) {
      if (++i[static_cast<std::size_t>(d)] < box.shape[d]) break;
      i[static_cast<std::size_t>(d)] = 0;
    }
  }
}

/// A shape (or offset) without its first dim: of one expert of a stacked parameter.
inline Shape without_first(const Shape& shape) {
  Shape rest;
  for (int d = 1; d < shape.rank(); ++d) rest.push_back(shape[d]);
  return rest;
}

}  // namespace hysparse
