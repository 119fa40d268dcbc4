/// The small matrix products of attention tiles, in vector registers. OpenBLAS spends longer entering and
/// packing a product of these sizes (tens by tens) than computing it. Every element of a result is one chain of
/// multiply-adds in ascending depth, whatever its place in the tile: equal keys have bitwise equal logits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace hysparse::cpu {

/// Elements of a vector register: 16 floats or 8 doubles.
template <class T>
inline constexpr std::int64_t vector_lanes = 64 / static_cast<std::int64_t>(sizeof(T));

template <class T>
constexpr std::int64_t round_up_to_lanes(std::int64_t n) {
  return (n + vector_lanes<T> - 1) / vector_lanes<T> * vector_lanes<T>;
}

namespace detail {

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(64)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

/// C (Rows, Vectors * lanes; the last vector holds `last` elements of C) (+)= A B over `depth`.
template <class T, int Rows, int Vectors>
void product_block(std::int64_t depth, const T* a, std::int64_t a_row, std::int64_t a_depth, const T* b,
                   std::int64_t ldb, bool accumulate, std::int64_t last, T* c, std::int64_t ldc) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  Vector<T> sum[Rows][Vectors];
  const std::size_t last_bytes = static_cast<std::size_t>(last) * sizeof(T);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) sum[i][j] = Vector<T>{};
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    Vector<T> row[Vectors];
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) std::memcpy(&row[j], b + k * ldb + j * lanes, sizeof(row[j]));
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const T x = a[i * a_row + k * a_depth];
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; ++j) sum[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) {
      T* to = c + i * ldc + j * lanes;
      if (j + 1 < Vectors || last == lanes) {
        if (accumulate) {
          Vector<T> old;
          std::memcpy(&old, to, sizeof(old));
          sum[i][j] += old;
        }
        std::memcpy(to, &sum[i][j], sizeof(sum[i][j]));
      } else {
        Vector<T> old{};
        if (accumulate) std::memcpy(&old, to, last_bytes);
        old += sum[i][j];
        std::memcpy(to, &old, last_bytes);
      }
    }
  }
}

/// Calls f.operator()<N>(i) for consecutive pieces [i, i + N) of [0, count), N the first of Sizes that still
/// fits.
template <int... Sizes, class F>
void in_pieces(std::int64_t count, F&& f) {
  std::int64_t i = 0;
  const auto take = [&]<int N>() {
    for (; i + N <= count; i += N) f.template operator()<N>(i);
  };
  (take.template operator()<Sizes>(), ...);
}

/// Picks from the two vectors a, b by index: the two halves of one butterfly stage of a transpose.
template <class T, int Step, std::size_t... J>
void butterfly(Vector<T>& a, Vector<T>& b, std::index_sequence<J...>) {
  constexpr auto lanes = static_cast<int>(vector_lanes<T>);
  const Vector<T> low = __builtin_shufflevector(
      a, b, ((static_cast<int>(J) & Step) ? lanes + static_cast<int>(J) - Step : static_cast<int>(J))...);
  const Vector<T> high = __builtin_shufflevector(
      a, b, ((static_cast<int>(J) & Step) ? lanes + static_cast<int>(J) : static_cast<int>(J) + Step)...);
  a = low;
  b = high;
}

/// Transposes a square of vector_lanes rows in registers.
template <class T>
void transpose_square(Vector<T>* rows) {
  constexpr auto lanes = static_cast<int>(vector_lanes<T>);
  const auto stage = [&]<int Step>() {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if ((i & Step) == 0) butterfly<T, Step>(rows[i], rows[i + Step], std::make_index_sequence<lanes>());
    }
  };
  stage.template operator()<1>();
  stage.template operator()<2>();
  stage.template operator()<4>();
  if constexpr (lanes == 16) stage.template operator()<8>();
}

/// Combines every lane with the one Step further on, around the end.
template <int Step, class T, class F, std::size_t... J>
void combine_rotated(Vector<T>& x, F&& combine, std::index_sequence<J...>) {
  const Vector<T> rotated =
      __builtin_shufflevector(x, x, ((static_cast<int>(J) + Step) % static_cast<int>(sizeof...(J)))...);
  combine(x, rotated);
}

/// Combines all lanes pairwise: lane j with lane j + lanes / 2, and so on.
template <class T, class F>
T reduce_lanes(const Vector<T>& vector, F&& combine) {
  constexpr auto indices = std::make_index_sequence<static_cast<std::size_t>(vector_lanes<T>)>();
  Vector<T> x = vector;
  if constexpr (vector_lanes<T> == 16) combine_rotated<8, T>(x, combine, indices);
  combine_rotated<4, T>(x, combine, indices);
  combine_rotated<2, T>(x, combine, indices);
  combine_rotated<1, T>(x, combine, indices);
  return x[0];
}
template <class T>
T sum_lanes(const Vector<T>& x) {
  return reduce_lanes<T>(x, [](Vector<T>& a, const Vector<T>& b) { a += b; });
}
template <class T>
T max_lanes(const Vector<T>& x) {
  return reduce_lanes<T>(x, [](Vector<T>& a, const Vector<T>& b) { a = b > a ? b : a; });
}

}  // namespace detail

/// sum_i a[i] * b[i], in vector_lanes partial sums added pairwise: one order for a given n.
template <class T>
inline T dot(const T* a, const T* b, std::int64_t n) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  detail::Vector<T> sum{}, x, y;
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    std::memcpy(&x, a + i, sizeof(x));
    std::memcpy(&y, b + i, sizeof(y));
    sum += x * y;
  }
  if (i < n) {
    const std::size_t bytes = static_cast<std::size_t>(n - i) * sizeof(T);
    x = y = detail::Vector<T>{};
    std::memcpy(&x, a + i, bytes);
    std::memcpy(&y, b + i, bytes);
    sum += x * y;
  }
  return detail::sum_lanes<T>(sum);
}

/// to[e] (+)= factor * from[e] for e < count.
template <class T>
inline void scale_row(const T* from, std::int64_t count, T factor, bool add, T* to) {
  if (add) {
    for (std::int64_t e = 0; e < count; ++e) to[e] += factor * from[e];
  } else {
    for (std::int64_t e = 0; e < count; ++e) to[e] = factor * from[e];
  }
}

/// C[i, j] (+)= sum_k A[i * a_row + k * a_depth] * B[k * ldb + j] for i < rows, j < width, k < depth. Rows of B
/// are read in whole vectors: up to width rounded up to lanes. C may not overlap A or B. `accumulate` false
/// does not read C.
template <class T>
void tile_product(std::int64_t rows, std::int64_t width, std::int64_t depth, const T* a, std::int64_t a_row,
                  std::int64_t a_depth, const T* b, std::int64_t ldb, bool accumulate, T* c, std::int64_t ldc) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  for (std::int64_t j = 0; j < width;) {
    const std::int64_t vectors = width - j > lanes ? 2 : 1;
    const std::int64_t last = std::min(lanes, width - j - (vectors - 1) * lanes);
    if (vectors == 2) {
      detail::in_pieces<8, 4, 1>(rows, [&]<int N>(std::int64_t i) {
        detail::product_block<T, N, 2>(depth, a + i * a_row, a_row, a_depth, b + j, ldb, accumulate, last,
                                       c + i * ldc + j, ldc);
      });
    } else {
      detail::in_pieces<16, 4, 1>(rows, [&]<int N>(std::int64_t i) {
        detail::product_block<T, N, 1>(depth, a + i * a_row, a_row, a_depth, b + j, ldb, accumulate, last,
                                       c + i * ldc + j, ldc);
      });
    }
    j += vectors * lanes;
  }
}

/// out[e * lanes_out + m] = scale * base[offsets[m] + e] for e < width, m < count: rows from anywhere become
/// columns. `count` is a multiple of vector_lanes; a negative offset gives zeros.
template <class T>
void gather_transposed(const T* base, const std::int64_t* offsets, std::int64_t count, std::int64_t width,
                       T scale, T* out) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  for (std::int64_t m = 0; m < count; m += lanes) {
    for (std::int64_t e = 0; e < width; e += lanes) {
      const std::int64_t part = std::min(lanes, width - e);
      detail::Vector<T> rows[lanes];
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < lanes; ++i) {
        rows[i] = detail::Vector<T>{};
        if (offsets[m + i] < 0) continue;
        const T* from = base + offsets[m + i] + e;
        if (part == lanes) {
          std::memcpy(&rows[i], from, sizeof(rows[i]));
        } else {
          std::memcpy(&rows[i], from, static_cast<std::size_t>(part) * sizeof(T));
        }
      }
      detail::transpose_square<T>(rows);
      for (std::int64_t i = 0; i < part; ++i) {
        const detail::Vector<T> scaled = rows[i] * scale;
        std::memcpy(out + (e + i) * count + m, &scaled, sizeof(scaled));
      }
    }
  }
}

/// base[offsets[m] + e] (+)= scale[m] * in[e * count + m]: the inverse. Negative offsets are skipped.
template <class T>
void scatter_transposed(const T* in, std::int64_t count, std::int64_t width, const T* scale, bool accumulate,
                        T* base, const std::int64_t* offsets) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  for (std::int64_t m = 0; m < count; m += lanes) {
    detail::Vector<T> factor;
    std::memcpy(&factor, scale + m, sizeof(factor));
    for (std::int64_t e = 0; e < width; e += lanes) {
      const std::int64_t part = std::min(lanes, width - e);
      detail::Vector<T> rows[lanes];
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < lanes; ++i) {
        rows[i] = detail::Vector<T>{};
        if (i >= part) continue;
        std::memcpy(&rows[i], in + (e + i) * count + m, sizeof(rows[i]));
        rows[i] *= factor;
      }
      detail::transpose_square<T>(rows);
      const std::size_t bytes = static_cast<std::size_t>(part) * sizeof(T);
      for (std::int64_t i = 0; i < lanes; ++i) {
        if (offsets[m + i] < 0) continue;
        T* to = base + offsets[m + i] + e;
        if (accumulate) {
          detail::Vector<T> old{};
          std::memcpy(&old, to, bytes);
          rows[i] += old;
        }
        std::memcpy(to, &rows[i], bytes);
      }
    }
  }
}

}  // namespace hysparse::cpu
