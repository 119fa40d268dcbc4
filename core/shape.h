/// Shape of a dense row-major tensor: up to four dims, each >= 0. Last dim is contiguous.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/error.h"

namespace hysparse {

class Shape {
 public:
  static constexpr int max_rank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);

  int rank() const { return rank_; }
  std::int64_t operator[](int dim) const {
    HYSPARSE_CHECK(dim >= 0 && dim < rank_, "dim {} of {}", dim, rank_);
    return dims_[static_cast<std::size_t>(dim)];
  }
  void set(int dim, std::int64_t size);
  void push_back(std::int64_t size);

  /// Number of elements; 1 for rank 0 (a scalar).
  std::int64_t numel() const;
  /// "[2, 3]".
  std::string str() const;

  const std::int64_t* begin() const { return dims_.data(); }
  const std::int64_t* end() const { return dims_.data() + rank_; }
  friend bool operator==(const Shape& a, const Shape& b);

 private:
  std::array<std::int64_t, max_rank> dims_{};
  int rank_ = 0;
};

}  // namespace hysparse
