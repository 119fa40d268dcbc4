// Rows move in 16-byte pieces where width, strides and addresses allow it. blockDim.x threads share a row,
// blockDim.y rows a block.
#include "core/cuda/kernel.cuh"
#include "moe/cuda/dispatch.h"

namespace hysparse::cuda {
namespace {

Launch per_row(std::int64_t rows, std::int64_t pieces) {
  const std::int64_t x = std::clamp<std::int64_t>(ceil_div(pieces, warp_size) * warp_size, warp_size, 256);
  const std::int64_t y = 256 / x;
  return {dim3(static_cast<unsigned>(ceil_div(rows, y))),
          dim3(static_cast<unsigned>(x), static_cast<unsigned>(y))};
}
__device__ std::int64_t own_row() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}

/// Calls f.template operator()<N>(): N elements of T in a piece, of rows of `width` at the addresses.
template <class T, class F, class... Pointers>
void dispatch_pieces(std::int64_t width, std::initializer_list<std::int64_t> strides, F&& f,
                     Pointers... pointers) {
  bool wide = width % vector_width<T> == 0 && aligned_to(16, pointers...);
  for (const std::int64_t stride : strides) wide = wide && stride % vector_width<T> == 0;
  if (wide) {
    f.template operator()<vector_width<T>>();
  } else {
    f.template operator()<1>();
  }
}

template <class T, int N>
__device__ void copy_row(const T* from, std::int64_t width, T* to) {
  for (std::int64_t i = threadIdx.x * N; i < width; i += blockDim.x * N)
    *reinterpret_cast<Vector<T, N>*>(to + i) = *reinterpret_cast<const Vector<T, N>*>(from + i);
}

/// out (+)= the sum of a token's rows, in order of slot.
template <class T, int N>
__device__ void combine_row(const T* rows, std::int64_t stride, const int* positions, int slots,
                            std::int64_t width, T* out, bool add) {
  constexpr int ahead = 4;  // rows under way
  for (std::int64_t i = threadIdx.x * N; i < width; i += blockDim.x * N) {
    float sum[N] = {};
    if (add) load<N>(out + i, sum);
    for (int first = 0; first < slots; first += ahead) {
      float row[ahead][N];
#pragma unroll
      for (int s = 0; s < ahead; ++s) {
        const int position = first + s < slots ? positions[first + s] : -1;
        if (position >= 0) {
          load<N>(rows + position * stride + i, row[s]);
        } else {
#pragma unroll
          for (int j = 0; j < N; ++j) row[s][j] = 0;
        }
      }
#pragma unroll
      for (int s = 0; s < ahead; ++s) {
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += row[s][j];
      }
    }
    store<N>(out + i, sum);
  }
}

// ---- columns of weights and ids (moe/wire.h) ----

__device__ void put_bits(unsigned bits, float* column) {
  *column = __uint_as_float(bits);
}
__device__ void put_bits(unsigned bits, bf16* columns) {
  columns[0] = __ushort_as_bfloat16(static_cast<unsigned short>(bits & 0xffffu));
  columns[1] = __ushort_as_bfloat16(static_cast<unsigned short>(bits >> 16));
}
__device__ unsigned get_bits(const float* column) {
  return __float_as_uint(*column);
}
__device__ unsigned get_bits(const bf16* columns) {
  return __bfloat16_as_ushort(columns[0]) | static_cast<unsigned>(__bfloat16_as_ushort(columns[1])) << 16;
}
template <class T>
constexpr int slot_columns = std::is_same_v<T, bf16> ? 2 : 1;

template <class T>
__device__ void fill_up(T* row, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) row[i] = from_float<T>(0.0f);
}

// ---- kernels ----

template <class T, int N>
__global__ void gather_rows_kernel(const T* x, const int* tokens, std::int64_t rows, std::int64_t width,
                                   T* out) {
  const std::int64_t row = own_row();
  if (row < rows) copy_row<T, N>(x + tokens[row] * width, width, out + row * width);
}

template <class T>
struct Pack {
  const T* x;
  const float* weights;
  const int *ids, *tokens;
  std::int64_t rows, width, stride;
  int slots;
  T* out;
};
template <class T, int N>
__global__ void pack_rows_kernel(const Pack<T> p) {
  constexpr int columns = slot_columns<T>;
  const std::int64_t row = own_row();
  if (row >= p.rows) return;
  const std::int64_t token = p.tokens[row];
  T *out = p.out + row * p.stride, *weights = out + p.width, *ids = weights + p.slots * columns;
  copy_row<T, N>(p.x + token * p.width, p.width, out);
  for (int slot = threadIdx.x; slot < p.slots; slot += blockDim.x) {
    put_bits(__float_as_uint(p.weights[token * p.slots + slot]), weights + slot * columns);
    put_bits(static_cast<unsigned>(p.ids[row * p.slots + slot]), ids + slot * columns);
  }
  fill_up(out, p.width + 2 * p.slots * columns, p.stride);
}

template <class T>
__global__ void unpack_slots_kernel(const T* rows, std::int64_t width, std::int64_t stride, std::int64_t n,
                                    int slots, float* weights, int* ids) {
  constexpr int columns = slot_columns<T>;
  const std::int64_t a = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (a >= n) return;
  const T* from = rows + a / slots * stride + width + a % slots * columns;
  weights[a] = __uint_as_float(get_bits(from));
  ids[a] = static_cast<int>(get_bits(from + slots * columns));
}

template <class T, int N>
__global__ void combine_rows_kernel(const T* rows, std::int64_t stride, const int* positions, int slots,
                                    std::int64_t tokens, std::int64_t width, T* out, bool add) {
  const std::int64_t t = own_row();
  if (t < tokens) combine_row<T, N>(rows, stride, positions + t * slots, slots, width, out + t * width, add);
}

template <class T>
__global__ void combine_slots_kernel(const T* rows, std::int64_t width, std::int64_t stride,
                                     const int* positions, int count, std::int64_t n, int slots, float* out,
                                     bool add) {
  const std::int64_t a = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (a >= n) return;
  const int* position = positions + a / slots * count;
  float sum = add ? out[a] : 0;
  for (int i = 0; i < count; ++i) {
    if (position[i] < 0) continue;
    sum += __uint_as_float(get_bits(rows + position[i] * stride + width + a % slots * slot_columns<T>));
  }
  out[a] = sum;
}

__global__ void take_values_kernel(const float* values, const int* positions, std::int64_t n, float* out,
                                   bool add) {
  const std::int64_t a = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (a >= n) return;
  out[a] = (add ? out[a] : 0) + (positions[a] < 0 ? 0 : values[positions[a]]);
}

template <class T, int N>
__global__ void pack_gradients_kernel(const T* rows, const float* values, const int* positions, int slots,
                                      std::int64_t tokens, std::int64_t width, std::int64_t stride, T* out) {
  constexpr int columns = slot_columns<T>;
  const std::int64_t t = own_row();
  if (t >= tokens) return;
  T* to = out + t * stride;
  const int* position = positions + t * slots;
  combine_row<T, N>(rows, width, position, slots, width, to, false);
  for (int slot = threadIdx.x; slot < slots; slot += blockDim.x) {
    const float value = position[slot] < 0 ? 0 : values[position[slot]];
    put_bits(__float_as_uint(value), to + width + slot * columns);
  }
  fill_up(to, width + slots * columns, stride);
}

constexpr int block = 256;
Launch flat(std::int64_t n) {
  return {dim3(static_cast<unsigned>(ceil_div(n, block))), dim3(block)};
}

}  // namespace

void gather_rows(const Stream& stream, const Tensor& x, const Tensor& tokens, const Tensor& out) {
  const std::int64_t rows = tokens.numel(), width = x.dim(1);
  dispatch_compute(x.dtype(), [&]<class T>() {
    const T* from = device_data<T>(x);
    T* to = device_data<T>(out);
    dispatch_pieces<T>(
        width, {},
        [&]<int N>() {
          launch(stream, per_row(rows, width / N), gather_rows_kernel<T, N>, from, device_data<int>(tokens),
                 rows, width, to);
        },
        from, to);
  });
}

void pack_rows(const Stream& stream, const Tensor& x, const Tensor& weights, const Tensor& ids,
               const Tensor& tokens, const Tensor& out) {
  const std::int64_t rows = tokens.numel(), width = x.dim(1), stride = out.dim(1);
  dispatch_compute(x.dtype(), [&]<class T>() {
    const Pack<T> pack{device_data<T>(x),
                       device_data<float>(weights),
                       device_data<int>(ids),
                       device_data<int>(tokens),
                       rows,
                       width,
                       stride,
                       static_cast<int>(ids.dim(1)),
                       device_data<T>(out)};
    dispatch_pieces<T>(
        width, {stride},
        [&]<int N>() { launch(stream, per_row(rows, width / N), pack_rows_kernel<T, N>, pack); }, pack.x,
        pack.out);
  });
}

void unpack_slots(const Stream& stream, const Tensor& rows, std::int64_t width, const Tensor& weights,
                  const Tensor& ids) {
  dispatch_compute(rows.dtype(), [&]<class T>() {
    launch(stream, flat(ids.numel()), unpack_slots_kernel<T>, device_data<T>(rows), width, rows.dim(1),
           ids.numel(), static_cast<int>(ids.dim(1)), device_data<float>(weights), device_data<int>(ids));
  });
}

void combine_rows(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                  bool add) {
  const std::int64_t tokens = out.dim(0), width = out.dim(1), stride = rows.dim(1);
  dispatch_compute(out.dtype(), [&]<class T>() {
    const T* from = device_data<T>(rows);
    T* to = device_data<T>(out);
    dispatch_pieces<T>(
        width, {stride},
        [&]<int N>() {
          launch(stream, per_row(tokens, width / N), combine_rows_kernel<T, N>, from, stride,
                 device_data<int>(positions), static_cast<int>(positions.dim(1)), tokens, width, to, add);
        },
        from, to);
  });
}

void combine_slots(const Stream& stream, const Tensor& rows, std::int64_t width, const Tensor& positions,
                   const Tensor& out, bool add) {
  dispatch_compute(rows.dtype(), [&]<class T>() {
    launch(stream, flat(out.numel()), combine_slots_kernel<T>, device_data<T>(rows), width, rows.dim(1),
           device_data<int>(positions), static_cast<int>(positions.dim(1)), out.numel(),
           static_cast<int>(out.dim(1)), device_data<float>(out), add);
  });
}

void take_values(const Stream& stream, const Tensor& values, const Tensor& positions, const Tensor& out,
                 bool add) {
  launch(stream, flat(out.numel()), take_values_kernel, device_data<float>(values), device_data<int>(positions),
         out.numel(), device_data<float>(out), add);
}

void pack_gradients(const Stream& stream, const Tensor& rows, const Tensor& values, const Tensor& positions,
                    const Tensor& out) {
  const std::int64_t tokens = out.dim(0), width = rows.dim(1), stride = out.dim(1);
  dispatch_compute(rows.dtype(), [&]<class T>() {
    const T* from = device_data<T>(rows);
    T* to = device_data<T>(out);
    dispatch_pieces<T>(
        width, {stride},
        [&]<int N>() {
          launch(stream, per_row(tokens, width / N), pack_gradients_kernel<T, N>, from,
                 device_data<float>(values), device_data<int>(positions), static_cast<int>(positions.dim(1)),
                 tokens, width, stride, to);
        },
        from, to);
  });
}

}  // namespace hysparse::cuda
