#include "attention/cpu/rope.h"

#include <cmath>

#include "attention/cpu/tiles.h"

namespace hysparse::cpu {
namespace {

constexpr std::int64_t chunk_rows = 32;
/// Positions between the points where the table takes sines and cosines afresh.
constexpr std::int64_t table_step = 64;

std::int64_t chunks_of(std::int64_t rows) {
  return (rows + chunk_rows - 1) / chunk_rows;
}

/// What both directions need of one op, as plain numbers.
template <class T>
struct Sizes {
  explicit Sizes(const NormRope& op, const Tensor& rows_by_features)
      : head_dim(op.head_dim),
        heads(rows_by_features.dim(1) / op.head_dim),
        rows(rows_by_features.dim(0)),
        length(op.table.dim(0)),
        half(op.table.dim(1) / 2),
        table(op.table.data<T>()),
        weight(op.weight.defined() ? op.weight.data<T>() : nullptr),
        documents(op.documents.defined() ? op.documents.data<std::int32_t>() : nullptr),
        eps(static_cast<T>(op.eps)) {}
  std::int64_t head_dim, heads, rows, length, half;
  const T* table;
  const T* weight;
  const std::int32_t* documents;
  T eps;

  const T* angles(std::int64_t row) const {
    return table + (row % length - (documents != nullptr ? documents[row] : 0)) * 2 * half;
  }

  T inverse_norm(const T* x) const {
    return T(1) / std::sqrt(dot(x, x, head_dim) / static_cast<T>(head_dim) + eps);
  }
};

/// y = R x, with R the rotation by the angles of one position; Direction -1: by the opposite angles.
template <int Direction, class T>
void rotate(const Sizes<T>& sizes, const T* angles, const T* x, T* y) {
  const std::int64_t half = sizes.half;
  const T *cosine = angles, *sine = angles + half;
  for (std::int64_t i = 0; i < half; ++i) {
    const T a = x[i], b = x[i + half], s = Direction * sine[i];
    y[i] = a * cosine[i] - b * s;
    y[i + half] = b * cosine[i] + a * s;
  }
  for (std::int64_t i = 2 * half; i < sizes.head_dim; ++i) y[i] = x[i];
}

}  // namespace

Tensor rope_table(const Stream& stream, double theta, std::int64_t rotary_dim, std::int64_t start,
                  std::int64_t length, DType dtype) {
  const Tensor table = Tensor::empty({length, rotary_dim}, dtype);
  const std::int64_t half = rotary_dim / 2;
  std::vector<double> frequency(static_cast<std::size_t>(half)),
      near(static_cast<std::size_t>(2 * half * table_step));
  for (std::int64_t i = 0; i < half; ++i) {
    frequency[static_cast<std::size_t>(i)] =
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  }
  const auto angles = [&](double position, double* cosine, double* sine) {
    for (std::int64_t i = 0; i < half; ++i) {
      cosine[i] = std::cos(position * frequency[static_cast<std::size_t>(i)]);
      sine[i] = std::sin(position * frequency[static_cast<std::size_t>(i)]);
    }
  };
  for (std::int64_t p = 0; p < std::min(table_step, length); ++p) {
    double* row = near.data() + p * 2 * half;
    angles(static_cast<double>(p), row, row + half);
  }
  // The angle of a position is the sum of those of a multiple of table_step and of a small rest.
  dispatch_float(dtype, [&]<class T>() {
    T* out = table.data<T>();
    stream.pool->parallel_for(
        (length + table_step - 1) / table_step, 4, [&](std::int64_t begin, std::int64_t end) {
          std::vector<double> far(static_cast<std::size_t>(2 * half));
          const double *far_cos = far.data(), *far_sin = far_cos + half;
          for (std::int64_t block = begin; block < end; ++block) {
            angles(static_cast<double>(start + block * table_step), far.data(), far.data() + half);
            for (std::int64_t p = block * table_step; p < std::min(length, (block + 1) * table_step); ++p) {
              const double *near_cos = near.data() + (p % table_step) * 2 * half, *near_sin = near_cos + half;
              T* row = out + p * rotary_dim;
              for (std::int64_t i = 0; i < half; ++i) {
                row[i] = static_cast<T>(far_cos[i] * near_cos[i] - far_sin[i] * near_sin[i]);
                row[half + i] = static_cast<T>(far_sin[i] * near_cos[i] + far_cos[i] * near_sin[i]);
              }
            }
          }
        });
  });
  return table;
}

void norm_rope_forward(const Stream& stream, const NormRope& op, const Tensor& x, const Tensor& y) {
  dispatch_float(x.dtype(), [&]<class T>() {
    const Sizes<T> sizes(op, x);
    const T* in = x.data<T>();
    T* out = y.data<T>();
    stream.pool->parallel_for(sizes.rows, chunk_rows, [&](std::int64_t begin, std::int64_t end) {
      const Scratch<T> scratch(sizes.head_dim);
      T* normed = scratch;
      for (std::int64_t row = begin; row < end; ++row) {
        const T* angles = sizes.angles(row);
        for (std::int64_t at = row * sizes.heads; at < (row + 1) * sizes.heads; ++at) {
          const T* from = in + at * sizes.head_dim;
          if (sizes.weight != nullptr) {
            const T inverse = sizes.inverse_norm(from);
            for (std::int64_t e = 0; e < sizes.head_dim; ++e) normed[e] = from[e] * inverse * sizes.weight[e];
            from = normed;
          }
          rotate<1>(sizes, angles, from, out + at * sizes.head_dim);
        }
      }
    });
  });
}

void norm_rope_backward(const Stream& stream, const NormRope& op, const Tensor& x, const Tensor& dy,
                        const Tensor& dx, bool add_dx, const Tensor& dweight) {
  dispatch_float(dy.dtype(), [&]<class T>() {
    const Sizes<T> sizes(op, dy);
    const T* in = sizes.weight != nullptr ? x.data<T>() : nullptr;
    const T* dout = dy.data<T>();
    T* din = dx.data<T>();
    const std::int64_t head_dim = sizes.head_dim, chunks = chunks_of(sizes.rows);
    // Partial sums of dweight per chunk of rows.
    const Scratch<T> partial(in != nullptr ? chunks * head_dim : 0);
    stream.pool->parallel_for(chunks, 1, [&](std::int64_t begin, std::int64_t end) {
      const Scratch<T> scratch(head_dim);
      T* g = scratch;
      for (std::int64_t chunk = begin; chunk < end; ++chunk) {
        T* dw = in != nullptr ? partial + chunk * head_dim : nullptr;
        if (in != nullptr) std::fill_n(dw, head_dim, T(0));
        for (std::int64_t row = chunk * chunk_rows; row < std::min(sizes.rows, (chunk + 1) * chunk_rows);
             ++row) {
          const T* angles = sizes.angles(row);
          for (std::int64_t at = row * sizes.heads; at < (row + 1) * sizes.heads; ++at) {
            T* to = din + at * head_dim;
            rotate<-1>(sizes, angles, dout + at * head_dim, g);
            T inverse = 1, along = 0;
            const T* from = g;
            if (in != nullptr) {
              from = in + at * head_dim;
              inverse = sizes.inverse_norm(from);
              for (std::int64_t e = 0; e < head_dim; ++e) {
                dw[e] += g[e] * from[e] * inverse;
                g[e] *= sizes.weight[e];
              }
              along = dot<T>(g, from, head_dim) * inverse * inverse * inverse / static_cast<T>(head_dim);
            }
            if (add_dx) {
              for (std::int64_t e = 0; e < head_dim; ++e) to[e] += inverse * g[e] - along * from[e];
            } else {
              for (std::int64_t e = 0; e < head_dim; ++e) to[e] = inverse * g[e] - along * from[e];
            }
          }
        }
      }
    });
    if (in == nullptr || !dweight.defined()) return;
    T* total = dweight.data<T>();
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (std::int64_t e = 0; e < head_dim; ++e) total[e] += partial[chunk * head_dim + e];
    }
  });
}

}  // namespace hysparse::cpu
