/// qk_norm_rope: a head's vector per group of lanes. Two features of a rotated pair that lie in different lanes
/// meet by shuffles, or in shared memory where pairs are not whole lanes apart.
#include "attention/cuda/heads.cuh"
#include "attention/cuda/problem.cuh"
#include "attention/cuda/rope.h"

namespace hysparse::cuda {
namespace {

constexpr int threads = 256;

struct NormRopeArguments {
  std::int64_t vectors;  ///< rows * heads
  int heads, head_dim, lanes, half;
  std::int64_t length;  ///< rows of the table
  const float* table;
  ParameterView weight;  ///< null: no norm
  float eps;
};

__global__ void rope_table_kernel(double theta, int half, std::int64_t start, std::int64_t length,
                                  float* table) {
  const std::int64_t i = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
  if (i >= length * half) return;
  const std::int64_t row = i / half, pair = i - row * half;
  const double angle = static_cast<double>(start + row) * pow(theta, -static_cast<double>(pair) / half);
  double sine, cosine;
  sincos(angle, &sine, &cosine);
  table[row * 2 * half + pair] = static_cast<float>(cosine);
  table[row * 2 * half + half + pair] = static_cast<float>(sine);
}

/// A lane's place: elements [first, first + 8) of the vector, whose other elements are in `shared`.
struct Place {
  int first;
  bool inside;
  float* shared;  ///< the vector's [head_dim]
  __device__ Place(const NormRopeArguments& a, float* block_shared) {
    const int thread = static_cast<int>(threadIdx.x);
    first = thread % a.lanes * lane_width;
    inside = first < a.head_dim;
    shared = block_shared + thread / a.lanes * (a.lanes * lane_width);
  }
};

/// x = R x with R the rotation by the angles of `row`, or the inverse one; all lanes of the warp call it.
template <int Direction>
__device__ __forceinline__ void rotate(const NormRopeArguments& a, const Place& place, std::int64_t row,
                                       float (&x)[lane_width]) {
  if (a.half % lane_width == 0) {  // a lane's partners are all in one other lane
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const bool rotated = place.first < 2 * a.half, above = place.first >= a.half;
    const int partner = rotated ? lane + (above ? -a.half : a.half) / lane_width : lane;
    float other[lane_width], cosine[lane_width], sine[lane_width];
#pragma unroll
    for (int i = 0; i < lane_width; ++i) other[i] = __shfl_sync(all_lanes, x[i], partner);
    if (!rotated) return;
    const float* angles = a.table + row % a.length * 2 * a.half + (above ? place.first - a.half : place.first);
    load_8(angles, cosine);
    load_8(angles + a.half, sine);
    const float sign = above ? Direction : -Direction;
#pragma unroll
    for (int i = 0; i < lane_width; ++i) x[i] = x[i] * cosine[i] + other[i] * (sign * sine[i]);
    return;
  }
  __syncwarp();
  store_8(place.shared + place.first, x);
  __syncwarp();
  if (place.first >= 2 * a.half) return;
  const float* angles = a.table + row % a.length * 2 * a.half;
#pragma unroll
  for (int i = 0; i < lane_width; ++i) {
    const int e = place.first + i;
    if (e >= 2 * a.half) break;
    const bool upper = e >= a.half;
    const int pair = upper ? e - a.half : e;
    const float cosine = angles[pair], sine = Direction * angles[a.half + pair];
    const float other = place.shared[upper ? pair : pair + a.half];
    x[i] = upper ? x[i] * cosine + other * sine : x[i] * cosine - other * sine;
  }
}

template <class T>
__global__ void __launch_bounds__(threads)
    norm_rope_forward_kernel(const __grid_constant__ NormRopeArguments a, const T* x, T* y) {
  __shared__ __align__(16) float shared[threads * lane_width];
  const Place place(a, shared);
  const int per_block = threads / a.lanes;
  float weight[lane_width] = {};
  if (a.weight.data != nullptr && place.inside) {
#pragma unroll
    for (int i = 0; i < lane_width; ++i) weight[i] = a.weight[place.first + i];
  }
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * per_block; first < a.vectors;
       first += static_cast<std::int64_t>(gridDim.x) * per_block) {
    const std::int64_t vector = first + static_cast<int>(threadIdx.x) / a.lanes;
    const bool valid = place.inside && vector < a.vectors;
    float own[lane_width] = {};
    if (valid) load_8(x + vector * a.head_dim + place.first, own);
    if (a.weight.data != nullptr) {
      float squares = 0.0f;
#pragma unroll
      for (int i = 0; i < lane_width; ++i) squares = fmaf(own[i], own[i], squares);
      const float inverse = 1.0f / sqrtf(head_sum(squares, a.lanes) / static_cast<float>(a.head_dim) + a.eps);
#pragma unroll
      for (int i = 0; i < lane_width; ++i) own[i] *= inverse * weight[i];
    }
    rotate<1>(a, place, valid ? vector / a.heads : 0, own);
    if (valid) store_8(y + vector * a.head_dim + place.first, own);
  }
}

/// partial [thread blocks, head_dim]: sums of dweight over a block's vectors.
template <class T>
__global__ void __launch_bounds__(threads)
    norm_rope_backward_kernel(const __grid_constant__ NormRopeArguments a, const T* x, const T* dy, T* dx,
                              bool add_dx, float* partial) {
  __shared__ __align__(16) float shared[threads * lane_width];
  const Place place(a, shared);
  const int per_block = threads / a.lanes;
  const bool norm = a.weight.data != nullptr;
  float weight[lane_width] = {}, dweight[lane_width] = {};
  if (norm && place.inside) {
#pragma unroll
    for (int i = 0; i < lane_width; ++i) weight[i] = a.weight[place.first + i];
  }
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * per_block; first < a.vectors;
       first += static_cast<std::int64_t>(gridDim.x) * per_block) {
    const std::int64_t vector = first + static_cast<int>(threadIdx.x) / a.lanes;
    const bool valid = place.inside && vector < a.vectors;
    const std::int64_t at = vector * a.head_dim + place.first;
    float g[lane_width] = {};
    if (valid) load_8(dy + at, g);
    rotate<-1>(a, place, valid ? vector / a.heads : 0, g);
    if (norm) {
      float own[lane_width] = {};
      if (valid) load_8(x + at, own);
      float squares = 0.0f, along = 0.0f;
#pragma unroll
      for (int i = 0; i < lane_width; ++i) {
        squares = fmaf(own[i], own[i], squares);
        along = fmaf(g[i] * weight[i], own[i], along);
      }
      const float size = static_cast<float>(a.head_dim);
      const float inverse = 1.0f / sqrtf(head_sum(squares, a.lanes) / size + a.eps);
      along = head_sum(along, a.lanes) * inverse * inverse * inverse / size;
#pragma unroll
      for (int i = 0; i < lane_width; ++i) {
        dweight[i] = fmaf(g[i] * own[i], inverse, dweight[i]);
        g[i] = inverse * g[i] * weight[i] - along * own[i];
      }
    }
    if (valid) put_8(dx + at, g, add_dx);
  }
  if (partial == nullptr) return;
  __syncthreads();
  store_8(place.shared + place.first, dweight);
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < a.head_dim; e += threads) {
    float sum = 0.0f;
    for (int i = 0; i < per_block; ++i) sum += shared[i * a.lanes * lane_width + e];
    partial[static_cast<std::int64_t>(blockIdx.x) * a.head_dim + e] = sum;
  }
}

/// dweight[e] += sum over blocks, in order.
__global__ void add_partial_kernel(int blocks, int head_dim, const float* partial, float* dweight) {
  const int e = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (e >= head_dim) return;
  float sum = 0.0f;
  for (int b = 0; b < blocks; ++b) sum += partial[static_cast<std::int64_t>(b) * head_dim + e];
  dweight[e] += sum;
}

NormRopeArguments arguments(const cpu::NormRope& op, const Tensor& x) {
  const std::int64_t heads = x.dim(1) / op.head_dim;
  return {.vectors = x.dim(0) * heads,
          .heads = static_cast<int>(heads),
          .head_dim = static_cast<int>(op.head_dim),
          .lanes = lanes_of_head(op.head_dim),
          .half = static_cast<int>(op.table.dim(1) / 2),
          .length = op.table.dim(0),
          .table = device_data<float>(op.table),
          .weight = ParameterView::of(op.weight),
          .eps = static_cast<float>(op.eps)};
}

}  // namespace

Tensor rope_table(const Stream& stream, double theta, std::int64_t rotary_dim, std::int64_t start,
                  std::int64_t length, DType dtype) {
  const Tensor table = Tensor::empty({length, rotary_dim}, dtype, stream.device);
  const std::int64_t half = rotary_dim / 2;
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(length * half, threads))), dim3(threads)},
         rope_table_kernel, theta, static_cast<int>(half), start, length, device_data<float>(table));
  return table;
}

void norm_rope_forward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& y) {
  const NormRopeArguments a = arguments(op, x);
  dispatch_compute(x.dtype(), [&]<class T>() {
    launch(stream, {dim3(grid_for(a.vectors, threads / a.lanes)), dim3(threads)}, norm_rope_forward_kernel<T>,
           a, device_data<T>(x), device_data<T>(y));
  });
}

void norm_rope_backward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& dy,
                        const Tensor& dx, bool add_dx, const Tensor& dweight) {
  const NormRopeArguments a = arguments(op, dy);
  const unsigned grid = grid_for(a.vectors, threads / a.lanes, 4);
  if (grid == 0) return;
  const bool sums = op.weight.defined() && dweight.defined();
  const Tensor partial = Tensor::empty({sums ? grid : 0, a.head_dim}, DType::f32, stream.device);
  dispatch_compute(dy.dtype(), [&]<class T>() {
    launch(stream, {dim3(grid), dim3(threads)}, norm_rope_backward_kernel<T>, a,
           op.weight.defined() ? device_data<T>(x) : nullptr, device_data<T>(dy), device_data<T>(dx), add_dx,
           sums ? device_data<float>(partial) : nullptr);
  });
  if (!sums) return;
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(a.head_dim, 32))), dim3(32)}, add_partial_kernel,
         static_cast<int>(grid), a.head_dim, device_data<float>(partial), device_data<float>(dweight));
}

}  // namespace hysparse::cuda
