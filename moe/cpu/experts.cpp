#include "moe/cpu/experts.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "core/cpu/elementwise.h"
#include "core/cpu/matmul.h"
#include "core/cpu/swiglu.h"
#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

/// Rows of a tile: enough that packing the expert's weights for one costs little, few enough that all threads
/// get work and a tile's activations stay in the second-level cache.
constexpr std::int64_t tile_rows = 128;

struct Tile {
  std::int64_t expert, begin, end;
  std::int64_t rows() const { return end - begin; }
};

/// An expert's rows in tiles of nearly equal size, largest tiles first.
std::vector<Tile> make_tiles(const ExpertRows& rows) {
  std::vector<Tile> tiles;
  const std::int32_t* offsets = rows.offsets.data<std::int32_t>();
  for (std::int64_t e = 0; e + 1 < rows.offsets.numel(); ++e) {
    const std::int64_t begin = offsets[e], count = offsets[e + 1] - begin;
    const std::int64_t parts = (count + tile_rows - 1) / tile_rows;
    for (std::int64_t p = 0; p < parts; ++p) {
      tiles.push_back({e, begin + count * p / parts, begin + count * (p + 1) / parts});
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const Tile& a, const Tile& b) { return a.rows() > b.rows(); });
  return tiles;
}

template <class T>
std::unique_ptr<T[]> scratch(std::int64_t elements) {
  return std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(elements));
}

/// to [n, width] = rows of `from` at `sources`.
template <class T>
void gather(std::int64_t n, std::int64_t width, const T* from, std::int64_t stride, const std::int32_t* sources,
            T* to) {
  for (std::int64_t r = 0; r < n; ++r) std::copy_n(from + sources[r] * stride, width, to + r * width);
}

}  // namespace

void experts_forward(const Stream& stream, const ExpertsForward& args) {
  const std::int64_t hidden_size = args.out.dim(1), width = args.gate.dim(1), stride = args.x.dim(1);
  const std::vector<Tile> tiles = make_tiles(args.rows);
  dispatch_float(args.x.dtype(), [&]<class T>() {
    const T *x = args.x.data<T>(), *slot_weights = args.slot_weights.data<T>();
    const T *w_gate = args.weights.gate.data<T>(), *w_up = args.weights.up.data<T>();
    const T* w_down = args.weights.down.data<T>();
    T *gate = args.gate.data<T>(), *up = args.up.data<T>(), *out = args.out.data<T>();
    const std::int32_t *sources = args.rows.sources.data<std::int32_t>(),
                       *assignments = args.rows.assignments.data<std::int32_t>();
    stream.pool->parallel_tasks(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t task) {
      const Tile tile = tiles[static_cast<std::size_t>(task)];
      const std::int64_t n = tile.rows(), matrix = tile.expert * width * hidden_size;
      const auto rows = scratch<T>(n * hidden_size), hidden = scratch<T>(n * width);
      T *g = gate + tile.begin * width, *u = up + tile.begin * width;
      gather(n, hidden_size, x, stride, sources + tile.begin, rows.get());
      gemm(Transpose::no, Transpose::yes, n, width, hidden_size, T(1), rows.get(), hidden_size, w_gate + matrix,
           hidden_size, T(0), g, width);
      gemm(Transpose::no, Transpose::yes, n, width, hidden_size, T(1), rows.get(), hidden_size, w_up + matrix,
           hidden_size, T(0), u, width);
      for (std::int64_t r = 0; r < n; ++r) {
        swiglu_row(width, g + r * width, u + r * width, slot_weights[assignments[tile.begin + r]],
                   hidden.get() + r * width);
      }
      gemm(Transpose::no, Transpose::yes, n, hidden_size, width, T(1), hidden.get(), width, w_down + matrix,
           width, T(0), out + tile.begin * hidden_size, hidden_size);
    });
  });
}

void experts_backward(const Stream& stream, ExpertsBackward& args) {
  const std::int64_t hidden_size = args.drows.dim(1), width = args.gate.dim(1), stride = args.dout.dim(1);
  args.dout_rows = Tensor::empty(args.drows.shape(), args.drows.dtype());
  const std::vector<Tile> tiles = make_tiles(args.rows);
  dispatch_float(args.dout.dtype(), [&]<class T>() {
    const T *dout = args.dout.data<T>(), *slot_weights = args.slot_weights.data<T>();
    const T *gate = args.gate.data<T>(), *up = args.up.data<T>();
    const T *w_gate = args.weights.gate.data<T>(), *w_up = args.weights.up.data<T>();
    const T* w_down = args.weights.down.data<T>();
    T *dout_rows = args.dout_rows.data<T>(), *drows = args.drows.data<T>(), *hidden = args.hidden.data<T>();
    T *dgate = args.dgate.data<T>(), *dup = args.dup.data<T>(), *dslots = args.dslots.data<T>();
    const std::int32_t *sources = args.rows.sources.data<std::int32_t>(),
                       *assignments = args.rows.assignments.data<std::int32_t>();
    stream.pool->parallel_tasks(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t task) {
      const Tile tile = tiles[static_cast<std::size_t>(task)];
      const std::int64_t n = tile.rows(), matrix = tile.expert * width * hidden_size;
      const auto dhidden = scratch<T>(n * width);
      T *d = dout_rows + tile.begin * hidden_size, *dg = dgate + tile.begin * width,
        *du = dup + tile.begin * width;
      gather(n, hidden_size, dout, stride, sources + tile.begin, d);
      gemm(Transpose::no, Transpose::no, n, width, hidden_size, T(1), d, hidden_size, w_down + matrix, width,
           T(0), dhidden.get(), width);
      T* dx = drows + tile.begin * hidden_size;
      for (std::int64_t r = 0; r < n; ++r) {
        const std::int64_t row = tile.begin + r, at = row * width;
        dslots[row] = swiglu_row_backward(width, gate + at, up + at, slot_weights[assignments[row]],
                                          dhidden.get() + r * width, hidden + at, dgate + at, dup + at);
      }
      gemm(Transpose::no, Transpose::no, n, hidden_size, width, T(1), dg, width, w_gate + matrix, hidden_size,
           T(0), dx, hidden_size);
      gemm(Transpose::no, Transpose::no, n, hidden_size, width, T(1), du, width, w_up + matrix, hidden_size,
           T(1), dx, hidden_size);
    });
  });
}

namespace {

/// One matrix of one expert: a part of c (m, n) += a^T b over the expert's rows; a [rows, m], b [rows, n].
template <class T>
struct Product {
  const T *a, *b;
  T* c;
  std::int64_t rows, m, n;

  void add(std::int64_t begin, std::int64_t end) const {
    gemm(Transpose::yes, Transpose::no, end - begin, n, rows, T(1), a + begin, m, b, n, T(1), c + begin * n, n);
  }
};

}  // namespace

void experts_weight_gradient(const Stream& stream, const ExpertsWeightGradient& args) {
  const std::int64_t hidden_size = args.dout_rows.dim(1), width = args.dgate.dim(1), stride = args.x.dim(1);
  const std::int32_t* offsets = args.rows.offsets.data<std::int32_t>();
  const std::int64_t experts = args.rows.offsets.numel() - 1, total = offsets[experts];
  dispatch_float(args.x.dtype(), [&]<class T>() {
    const Tensor sorted = Tensor::empty({total, hidden_size}, args.x.dtype(), args.x.device());
    const T* x = args.x.data<T>();
    T* x_rows = sorted.data<T>();
    const std::int32_t* sources = args.rows.sources.data<std::int32_t>();
    const std::int64_t grain =
        std::max<std::int64_t>(1, elementwise_grain / std::max<std::int64_t>(1, hidden_size));
    stream.pool->parallel_for(total, grain, [&](std::int64_t begin, std::int64_t end) {
      gather(end - begin, hidden_size, x, stride, sources + begin, x_rows + begin * hidden_size);
    });

    std::vector<Product<T>> products;
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t begin = offsets[e], rows = offsets[e + 1] - begin;
      if (rows == 0) continue;
      const std::int64_t matrix = e * width * hidden_size;
      const auto add = [&](const Tensor& a, const T* b, const Tensor& c, std::int64_t m, std::int64_t n) {
        if (c.defined())
          products.push_back({a.data<T>() + begin * m, b + begin * n, c.data<T>() + matrix, rows, m, n});
      };
      add(args.dgate, x_rows, args.dweights.gate, width, hidden_size);
      add(args.dup, x_rows, args.dweights.up, width, hidden_size);
      add(args.dout_rows, args.hidden.data<T>(), args.dweights.down, hidden_size, width);
    }
    std::stable_sort(products.begin(), products.end(),
                     [](const Product<T>& a, const Product<T>& b) { return a.rows > b.rows; });
    // Few experts at work: each product is split, so that the threads share it evenly.
    const auto count = static_cast<std::int64_t>(products.size());
    const std::int64_t parts = count == 0 ? 1 : (4 * stream.pool->threads() + count - 1) / count;
    stream.pool->parallel_tasks(count * parts, [&](std::int64_t task) {
      const Product<T>& product = products[static_cast<std::size_t>(task / parts)];
      const std::int64_t part = task % parts;
      product.add(product.m * part / parts, product.m * (part + 1) / parts);
    });
  });
}

}  // namespace hysparse::cpu
