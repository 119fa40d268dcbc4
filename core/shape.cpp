#include "core/shape.h"

#include <algorithm>

namespace hysparse {

Shape::Shape(std::initializer_list<std::int64_t> dims) {
  for (const std::int64_t d : dims) push_back(d);
}

void Shape::set(int dim, std::int64_t size) {
  HYSPARSE_CHECK(dim >= 0 && dim < rank_ && size >= 0, "dim {} of {}, size {}", dim, rank_, size);
  dims_[static_cast<std::size_t>(dim)] = size;
}

void Shape::push_back(std::int64_t size) {
  HYSPARSE_CHECK(rank_ < max_rank && size >= 0, "rank {}, size {}", rank_, size);
  dims_[static_cast<std::size_t>(rank_++)] = size;
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t d : *this) n *= d;
  return n;
}

std::string Shape::str() const {
  return fmt::format("[{}]", fmt::join(begin(), end(), ", "));
}

bool operator==(const Shape& a, const Shape& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

}  // namespace hysparse
