// Tiles of 64 x 64, four by four sums a thread, in steps of 16 along k. Every sum runs in the order of k.
#include "moe/cuda/experts_plain.h"
#include "moe/cuda/rows.cuh"

namespace hysparse::cuda {
namespace {

constexpr int tile = 64, step = 16, threads = 256;

__device__ TileGrid tiles_of_rows(int rows, std::int64_t columns) {
  return {(rows + tile - 1) / tile, static_cast<int>((columns + tile - 1) / tile)};
}

struct Sums {
  float at[4][4];
};

/// sums += a b^T, of 64 rows each, over k of [0, n); a_at(row, k) and b_at(row, k) give their elements. By the
/// whole block, which may use the shared memory before and after.
template <class A, class B>
__device__ void sum_tile(int n, A a_at, B b_at, Sums& sums) {
  __shared__ float a[step][tile + 4], b[step][tile + 4];
  const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
  for (int first = 0; first < n; first += step) {
    __syncthreads();
    for (int i = threadIdx.x; i < step * tile; i += threads) {
      const int row = i / step, k = i % step;
      a[k][row] = first + k < n ? a_at(row, first + k) : 0.0f;
      b[k][row] = first + k < n ? b_at(row, first + k) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < step; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums.at[i][j] += a[k][y + i] * b[k][x + j];
      }
    }
  }
}

/// out [M, N] = the sum of `pairs` products of sorted rows (gathered or not) with a matrix of each expert.
template <class T, class Out>
struct RowProduct {
  RowsOfExperts rows;
  const T* a[2];
  const T* b[2];  // element (n, k) of an expert's at n * b_row + k * b_k
  Out* out;
  std::int64_t a_stride, b_row, b_k;
  int pairs, n, k;
  bool gathered;
};
template <class T, class Out>
__global__ void __launch_bounds__(threads) row_product(const RowProduct<T, Out> p) {
  extern __shared__ int firsts[];
  const auto grid_of = [&](int rows) { return tiles_of_rows(rows, p.n); };
  const int tiles = make_schedule(p.rows, firsts, grid_of);
  const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
  for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
    const ExpertTile here = find_tile(p.rows, firsts, t, grid_of);
    const int m0 = here.m_tile * tile, n0 = here.n_tile * tile;
    Sums sums{};
    for (int pair = 0; pair < p.pairs; ++pair) {
      const T* a = pair == 0 ? p.a[0] : p.a[1];
      const T* b = (pair == 0 ? p.b[0] : p.b[1]) + static_cast<std::int64_t>(here.expert) * p.n * p.k;
      sum_tile(
          p.k,
          [&](int row, int k) {
            if (m0 + row >= here.rows) return 0.0f;
            const std::int64_t sorted = here.begin + m0 + row;
            return to_float(a[(p.gathered ? p.rows.sources[sorted] : sorted) * p.a_stride + k]);
          },
          [&](int row, int k) { return n0 + row < p.n ? to_float(b[(n0 + row) * p.b_row + k * p.b_k]) : 0.0f; },
          sums);
    }
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) {
        const std::int64_t row = m0 + y + i, column = n0 + x + j;
        if (row < here.rows && column < p.n)
          p.out[(here.begin + row) * p.n + column] = from_float<Out>(sums.at[i][j]);
      }
    }
  }
}

/// c [E, m, n] += a^T b over an expert's rows, each of a and b gathered or not.
template <class T>
struct WeightProduct {
  RowsOfExperts rows;
  const T *a, *b;
  float* c;
  std::int64_t a_stride, b_stride;
  int m, n;
  bool gathers_a, gathers_b;
};
template <class T>
__global__ void __launch_bounds__(threads) weight_product(const WeightProduct<T> p) {
  extern __shared__ int firsts[];
  const auto grid_of = [&](int rows) { return tiles_of_rows(rows == 0 ? 0 : p.m, p.n); };
  const int tiles = make_schedule(p.rows, firsts, grid_of);
  const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
  for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
    const ExpertTile here = find_tile(p.rows, firsts, t, grid_of);
    const int m0 = here.m_tile * tile, n0 = here.n_tile * tile;
    Sums sums{};
    const auto row_of = [&](bool gathers, int k) -> std::int64_t {
      return gathers ? p.rows.sources[here.begin + k] : here.begin + k;
    };
    sum_tile(
        here.rows,
        [&](int row, int k) {
          return m0 + row < p.m ? to_float(p.a[row_of(p.gathers_a, k) * p.a_stride + m0 + row]) : 0.0f;
        },
        [&](int row, int k) {
          return n0 + row < p.n ? to_float(p.b[row_of(p.gathers_b, k) * p.b_stride + n0 + row]) : 0.0f;
        },
        sums);
    float* c = p.c + static_cast<std::int64_t>(here.expert) * p.m * p.n;
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) {
        const std::int64_t row = m0 + y + i, column = n0 + x + j;
        if (row < p.m && column < p.n) c[row * p.n + column] += sums.at[i][j];
      }
    }
  }
}

/// hidden = weight * silu(gate) * up; a block a row, in strides of the grid.
template <class T>
__global__ void swiglu_rows(const RowsOfExperts rows, const float* slot_weights, const T* gate, const T* up,
                            std::int64_t width, T* hidden) {
  const std::int64_t count = rows.offsets[rows.experts];
  for (std::int64_t row = blockIdx.x; row < count; row += gridDim.x) {
    const float weight = slot_weights[rows.assignments[row]];
    for (std::int64_t i = row * width + threadIdx.x; i < (row + 1) * width; i += blockDim.x) {
      const float g = to_float(gate[i]);
      hidden[i] = from_float<T>(weight * (g / (1.0f + expf(-g)) * to_float(up[i])));
    }
  }
}

template <class T>
struct SwigluBackwardRows {
  RowsOfExperts rows;
  const float *slot_weights, *dh;
  const T *gate, *up;
  std::int64_t width;
  T *dgate, *dup, *hidden;
  float* dslots;
};
template <class T>
__global__ void swiglu_backward_rows(const SwigluBackwardRows<T> p) {
  __shared__ float scratch[warp_size];
  const std::int64_t count = p.rows.offsets[p.rows.experts];
  for (std::int64_t row = blockIdx.x; row < count; row += gridDim.x) {
    const float weight = p.slot_weights[p.rows.assignments[row]];
    float inner = 0;
    for (std::int64_t i = row * p.width + threadIdx.x; i < (row + 1) * p.width; i += blockDim.x) {
      const float g = to_float(p.gate[i]), u = to_float(p.up[i]), dh = p.dh[i], d = weight * dh;
      const float sigmoid = 1.0f / (1.0f + expf(-g)), silu = g * sigmoid;
      inner += dh * silu * u;
      p.hidden[i] = from_float<T>(weight * silu * u);
      p.dgate[i] = from_float<T>(d * u * sigmoid * (1.0f + g - silu));
      p.dup[i] = from_float<T>(d * silu);
    }
    inner = block_sum(inner, scratch);
    if (threadIdx.x == 0) p.dslots[row] = inner;
    __syncthreads();
  }
}

unsigned blocks() {
  return static_cast<unsigned>(4 * properties().multiprocessors);
}
template <class T, class Out>
void run(const Stream& stream, const RowProduct<T, Out>& product) {
  launch(stream, {dim3(blocks()), dim3(threads), schedule_bytes(product.rows.experts)}, row_product<T, Out>,
         product);
}
int narrow(std::int64_t n) {
  HYSPARSE_CHECK(n >= 0 && n < INT32_MAX, "{}", n);
  return static_cast<int>(n);
}

}  // namespace

namespace plain {

void experts_forward(const Stream& stream, const cpu::ExpertsForward& args) {
  const RowsOfExperts rows = rows_on_device(args.rows);
  const int hidden_size = narrow(args.out.dim(1)), width = narrow(args.gate.dim(1));
  dispatch_compute(args.x.dtype(), [&]<class T>() {
    const auto in = [&](const Tensor& weight, const Tensor& out) {
      run(stream, RowProduct<T, T>{rows,
                                   {device_data<T>(args.x), nullptr},
                                   {device_data<T>(weight), nullptr},
                                   device_data<T>(out),
                                   args.x.dim(1),
                                   hidden_size,
                                   1,
                                   1,
                                   width,
                                   hidden_size,
                                   true});
    };
    in(args.weights.gate, args.gate);
    in(args.weights.up, args.up);
    const Tensor hidden = Tensor::empty(args.gate.shape(), args.gate.dtype(), args.gate.device());
    launch(stream, {dim3(blocks()), dim3(threads)}, swiglu_rows<T>, rows, device_data<float>(args.slot_weights),
           device_data<T>(args.gate), device_data<T>(args.up), width, device_data<T>(hidden));
    run(stream, RowProduct<T, T>{rows,
                                 {device_data<T>(hidden), nullptr},
                                 {device_data<T>(args.weights.down), nullptr},
                                 device_data<T>(args.out),
                                 width,
                                 width,
                                 1,
                                 1,
                                 hidden_size,
                                 width,
                                 false});
  });
}

void experts_backward(const Stream& stream, const cpu::ExpertsBackward& args) {
  const RowsOfExperts rows = rows_on_device(args.rows);
  const int hidden_size = narrow(args.drows.dim(1)), width = narrow(args.gate.dim(1));
  const Tensor dh = Tensor::empty(args.gate.shape(), DType::f32, args.gate.device());
  dispatch_compute(args.dout.dtype(), [&]<class T>() {
    run(stream, RowProduct<T, float>{rows,
                                     {device_data<T>(args.dout), nullptr},
                                     {device_data<T>(args.weights.down), nullptr},
                                     device_data<float>(dh),
                                     args.dout.dim(1),
                                     1,
                                     width,
                                     1,
                                     width,
                                     hidden_size,
                                     true});
    launch(stream, {dim3(blocks()), dim3(threads)}, swiglu_backward_rows<T>,
           SwigluBackwardRows<T>{rows, device_data<float>(args.slot_weights), device_data<float>(dh),
                                 device_data<T>(args.gate), device_data<T>(args.up), width,
                                 device_data<T>(args.dgate), device_data<T>(args.dup),
                                 device_data<T>(args.hidden), device_data<float>(args.dslots)});
    run(stream, RowProduct<T, T>{rows,
                                 {device_data<T>(args.dgate), device_data<T>(args.dup)},
                                 {device_data<T>(args.weights.gate), device_data<T>(args.weights.up)},
                                 device_data<T>(args.drows),
                                 width,
                                 1,
                                 hidden_size,
                                 2,
                                 hidden_size,
                                 width,
                                 false});
  });
}

void experts_weight_gradient(const Stream& stream, const cpu::ExpertsWeightGradient& args) {
  const RowsOfExperts rows = rows_on_device(args.rows);
  const int hidden_size = narrow(hidden_size_of(args)), width = narrow(args.dgate.dim(1));
  dispatch_compute(args.x.dtype(), [&]<class T>() {
    const auto add = [&](const Tensor& dweight, const Tensor& a, const Tensor& b, int m, int n,
                         bool gathers_a) {
      if (!dweight.defined()) return;
      launch(stream, {dim3(blocks()), dim3(threads), schedule_bytes(rows.experts)}, weight_product<T>,
             WeightProduct<T>{rows, device_data<T>(a), device_data<T>(b), device_data<float>(dweight), a.dim(1),
                              b.dim(1), m, n, gathers_a, !gathers_a});
    };
    add(args.dweights.gate, args.dgate, args.x, width, hidden_size, false);
    add(args.dweights.up, args.dup, args.x, width, hidden_size, false);
    add(args.dweights.down, args.dout, args.hidden, hidden_size, width, true);
  });
}

}  // namespace plain
}  // namespace hysparse::cuda
