/// qk_norm_rope: a head's vector per group of lanes. Two features of a rotated pair that lie in different lanes
/// meet by shuffles, or in shared memory where pairs are not whole lanes apart.
#include "attention/cuda/heads.cuh"
#include "attention/cuda/plain_heads.h"
#include "attention/cuda/problem.cuh"
#include "attention/cuda/rope.h"

namespace hysparse::cuda {
namespace {

constexpr int threads = 256;

struct NormRopeArguments {
  std::int64_t rows;
  int heads, head_dim, half;
  int lanes;                         ///< of a head
  int groups_per_row, rows_at_once;  ///< of a thread block
  std::int64_t length;               ///< rows of the table
  const float* table;
  ParameterView weight;  ///< null: no norm
  float eps;
  const std::int32_t* documents;  ///< [rows], subtracted from positions; null without
  __device__ __forceinline__ const float* angles(std::int64_t row) const {
    std::int64_t position = row % length;
    if (documents != nullptr && row < rows) position -= documents[row];
    return table + position * 2 * half;
  }
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

/// A lane's place. A thread block takes `rows_at_once` rows at a time, each by groups_per_row groups of lanes
/// that take its heads in turn.
struct Place {
  int first;      ///< elements [first, first + 8) of the vector
  int row, head;  ///< the first ones
  bool inside;    ///< first < head_dim
  float* shared;  ///< the vector's [head_dim]
  __device__ Place(const NormRopeArguments& a, float* block_shared) {
    const int thread = static_cast<int>(threadIdx.x), group = thread / a.lanes;
    first = thread % a.lanes * lane_width;
    row = group / a.groups_per_row;
    head = group % a.groups_per_row;
    inside = first < a.head_dim;
    shared = block_shared + group * (a.lanes * lane_width);
  }
};

/// The rotation of one row (Direction -1: the inverse one), as a lane applies it to its elements. Whole: half
/// is a multiple of 8, so a lane's partners are all in one other lane.
template <int Direction, bool Whole>
class Rotation {
 public:
  __device__ __forceinline__ Rotation(const NormRopeArguments& a, const Place& place, std::int64_t row)
      : a_(a), place_(place), angles_(a.angles(row)) {
    if (!Whole || place.first >= 2 * a.half) return;
    const bool above = place.first >= a.half;
    angles_ += above ? place.first - a.half : place.first;
    load_8(angles_, cosine_);
    load_8(angles_ + a.half, sine_);
    const float sign = above ? Direction : -Direction;
#pragma unroll
    for (int i = 0; i < lane_width; ++i) sine_[i] *= sign;
  }

  /// x = R x. All lanes of the warp call it.
  __device__ __forceinline__ void apply(float (&x)[lane_width]) const {
    if constexpr (Whole) {
      const int lane = static_cast<int>(threadIdx.x) % warp_size;
      const bool rotated = place_.first < 2 * a_.half, above = place_.first >= a_.half;
      const int partner = rotated ? lane + (above ? -a_.half : a_.half) / lane_width : lane;
#pragma unroll
      for (int i = 0; i < lane_width; ++i) {
        const float other = __shfl_sync(all_lanes, x[i], partner);
        if (rotated) x[i] = x[i] * cosine_[i] + other * sine_[i];
      }
      return;
    }
    __syncwarp();
    store_8(place_.shared + place_.first, x);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < lane_width; ++i) {
      const int e = place_.first + i;
      if (e >= 2 * a_.half) break;
      const bool upper = e >= a_.half;
      const int pair = upper ? e - a_.half : e;
      const float cosine = angles_[pair], sine = Direction * angles_[a_.half + pair];
      const float other = place_.shared[upper ? pair : pair + a_.half];
      x[i] = upper ? x[i] * cosine + other * sine : x[i] * cosine - other * sine;
    }
  }

 private:
  const NormRopeArguments& a_;
  const Place& place_;
  const float* angles_;
  float cosine_[lane_width] = {}, sine_[lane_width] = {};
};

__device__ __forceinline__ void load_weight(const NormRopeArguments& a, const Place& place,
                                            float (&weight)[lane_width]) {
#pragma unroll
  for (int i = 0; i < lane_width; ++i)
    weight[i] = a.weight.data != nullptr && place.inside ? a.weight[place.first + i] : 0.0f;
}

template <class T, bool Whole>
__global__ void __launch_bounds__(threads, Whole ? 3 : 1)
    norm_rope_forward_kernel(const __grid_constant__ NormRopeArguments a, const T* x, T* y) {
  constexpr int batch = 2;  // heads whose loads are under way together
  __shared__ __align__(16) float shared[threads * lane_width];
  const Place place(a, shared);
  float weight[lane_width];
  load_weight(a, place, weight);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * a.rows_at_once; first < a.rows;
       first += static_cast<std::int64_t>(gridDim.x) * a.rows_at_once) {
    const std::int64_t row = first + place.row;
    const Rotation<1, Whole> rotation(a, place, row);
#pragma unroll 1
    for (int start = 0; start < a.heads; start += batch * a.groups_per_row) {
      float own[batch][lane_width] = {};
      bool valid[batch];
      std::int64_t at[batch];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const int head = start + b * a.groups_per_row + place.head;
        valid[b] = place.inside && head < a.heads && row < a.rows;
        at[b] = (row * a.heads + head) * a.head_dim + place.first;
        if (valid[b]) load_8(x + at[b], own[b]);
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (a.weight.data != nullptr) {
          float squares = 0.0f;
#pragma unroll
          for (int i = 0; i < lane_width; ++i) squares = fmaf(own[b][i], own[b][i], squares);
          const float mean = head_sum(squares, a.lanes) / static_cast<float>(a.head_dim);
          const float inverse = 1.0f / sqrtf(mean + a.eps);
#pragma unroll
          for (int i = 0; i < lane_width; ++i) own[b][i] *= inverse * weight[i];
        }
        rotation.apply(own[b]);
        if (valid[b]) store_8(y + at[b], own[b]);
      }
    }
  }
}

/// partial [thread blocks, head_dim]: sums of dweight over a block's vectors.
template <class T, bool Whole>
__global__ void __launch_bounds__(threads, Whole ? 3 : 1)
    norm_rope_backward_kernel(const __grid_constant__ NormRopeArguments a, const T* x, const T* dy, T* dx,
                              bool add_dx, float* partial) {
  __shared__ __align__(16) float shared[threads * lane_width];
  const Place place(a, shared);
  const bool norm = a.weight.data != nullptr;
  float weight[lane_width], dweight[lane_width] = {};
  load_weight(a, place, weight);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * a.rows_at_once; first < a.rows;
       first += static_cast<std::int64_t>(gridDim.x) * a.rows_at_once) {
    const std::int64_t row = first + place.row;
    const Rotation<-1, Whole> rotation(a, place, row);
#pragma unroll 1
    for (int start = 0; start < a.heads; start += a.groups_per_row) {
      const int head = start + place.head;
      const bool valid = place.inside && head < a.heads && row < a.rows;
      const std::int64_t at = (row * a.heads + head) * a.head_dim + place.first;
      float g[lane_width] = {}, own[lane_width] = {};
      if (valid) load_8(dy + at, g);
      if (valid && norm) load_8(x + at, own);
      rotation.apply(g);
      if (norm) {
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
  }
  if (partial == nullptr) return;
  __syncthreads();
  store_8(place.shared + place.first, dweight);
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < a.head_dim; e += threads) {
    float sum = 0.0f;
    for (int i = 0; i < threads / a.lanes; ++i) sum += shared[i * a.lanes * lane_width + e];
    partial[static_cast<std::int64_t>(blockIdx.x) * a.head_dim + e] = sum;
  }
}

/// dweight[e] += sum over blocks, in a fixed order: 32 interleaved sums per element, added in order.
__global__ void add_partial_kernel(int blocks, int head_dim, const float* partial, float* dweight) {
  __shared__ float sums[warp_size][warp_size];
  const int e = static_cast<int>(blockIdx.x) * warp_size + static_cast<int>(threadIdx.x);
  float sum = 0.0f;
  if (e < head_dim) {
    for (int b = static_cast<int>(threadIdx.y); b < blocks; b += warp_size)
      sum += partial[static_cast<std::int64_t>(b) * head_dim + e];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || e >= head_dim) return;
  for (int i = 1; i < warp_size; ++i) sum += sums[i][threadIdx.x];
  dweight[e] += sum;
}

NormRopeArguments arguments(const cpu::NormRope& op, const Tensor& x) {
  const int lanes = lanes_of_head(op.head_dim), groups = threads / lanes;
  const std::int64_t heads = x.dim(1) / op.head_dim;
  int groups_per_row = 1;
  while (2 * groups_per_row <= std::min<std::int64_t>(heads, groups)) groups_per_row *= 2;
  return {.rows = x.dim(0),
          .heads = static_cast<int>(heads),
          .head_dim = static_cast<int>(op.head_dim),
          .half = static_cast<int>(op.table.dim(1) / 2),
          .lanes = lanes,
          .groups_per_row = groups_per_row,
          .rows_at_once = groups / groups_per_row,
          .length = op.table.dim(0),
          .table = device_data<float>(op.table),
          .weight = ParameterView::of(op.weight),
          .eps = static_cast<float>(op.eps),
          .documents = device_data_or_null<std::int32_t>(op.documents)};
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
  if (op.head_dim % lane_width != 0) return plain::norm_rope_forward(stream, op, x, y);
  const NormRopeArguments a = arguments(op, x);
  dispatch_compute(x.dtype(), [&]<class T>() {
    const auto kernel =
        a.half % lane_width == 0 ? norm_rope_forward_kernel<T, true> : norm_rope_forward_kernel<T, false>;
    launch(stream, {dim3(grid_for(a.rows, a.rows_at_once)), dim3(threads)}, kernel, a, device_data<T>(x),
           device_data<T>(y));
  });
}

void norm_rope_backward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& dy,
                        const Tensor& dx, bool add_dx, const Tensor& dweight) {
  if (op.head_dim % lane_width != 0) return plain::norm_rope_backward(stream, op, x, dy, dx, add_dx, dweight);
  const NormRopeArguments a = arguments(op, dy);
  const unsigned grid = grid_for(a.rows, a.rows_at_once, 6);
  if (grid == 0) return;
  const bool sums = op.weight.defined() && dweight.defined();
  const Tensor partial = Tensor::empty({sums ? grid : 0, a.head_dim}, DType::f32, stream.device);
  dispatch_compute(dy.dtype(), [&]<class T>() {
    const auto kernel =
        a.half % lane_width == 0 ? norm_rope_backward_kernel<T, true> : norm_rope_backward_kernel<T, false>;
    launch(stream, {dim3(grid), dim3(threads)}, kernel, a, op.weight.defined() ? device_data<T>(x) : nullptr,
           device_data<T>(dy), device_data<T>(dx), add_dx, sums ? device_data<float>(partial) : nullptr);
  });
  if (!sums) return;
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(a.head_dim, warp_size))), dim3(warp_size, warp_size)},
         add_partial_kernel, static_cast<int>(grid), a.head_dim, device_data<float>(partial),
         device_data<float>(dweight));
}

}  // namespace hysparse::cuda
