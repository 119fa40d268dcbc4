/// Backward: what a query row's kernels share (lse, delta), the sinks' gradient, and which kernels serve a
/// call.
#include <type_traits>

#include "attention/cuda/attention.h"
#include "attention/cuda/backward.cuh"
#include "attention/cuda/exact.h"

namespace hysparse::cuda {
namespace {

/// Of each row (token * H + head): lse * factor and delta = dout . out. Half a warp per row. Width, of a lane's
/// loads, divides head_dim.
template <class T, int Width>
__global__ void row_stats_kernel(std::int64_t rows, int head_dim, const T* out, const T* dout, const float* lse,
                                 float factor, RowStats* stats) {
  constexpr int lanes = 16;
  const std::int64_t row = (blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  float delta = 0.0f;
  if (row < rows) {
    for (int e = lane * Width; e < head_dim; e += lanes * Width) {
      float a[Width], b[Width];
      load(out + row * head_dim + e, a);
      load(dout + row * head_dim + e, b);
#pragma unroll
      for (int j = 0; j < Width; ++j) delta = fmaf(a[j], b[j], delta);
    }
  }
#pragma unroll
  for (int offset = lanes / 2; offset > 0; offset /= 2) delta += __shfl_xor_sync(all_lanes, delta, offset);
  if (row < rows && lane == 0) stats[row] = {lse[row] == -INFINITY ? 0.0f : lse[row] * factor, delta};
}

/// partial[chunk, h] = -sum over the chunk's tokens of exp(sink - lse) * delta. A row that sees nothing has
/// delta 0.
__global__ void sink_gradient_kernel(std::int64_t tokens, int num_heads, int chunk, ParameterView sinks,
                                     const RowStats* stats, float factor, float* partial) {
  const int head = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (head >= num_heads) return;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * chunk;
  const float sink = sinks[head];
  float sum = 0.0f;
  for (std::int64_t t = first; t < min(first + chunk, tokens); ++t) {
    const RowStats s = stats[t * num_heads + head];
    sum -= expf(sink - s.lse / factor) * s.delta;
  }
  partial[blockIdx.x * static_cast<std::int64_t>(num_heads) + head] = sum;
}

/// dsinks[h] += sum over chunks, in order.
__global__ void add_sinks_kernel(int chunks, int num_heads, const float* partial, float* dsinks) {
  const int head = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (head >= num_heads) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int c = 0; c < chunks; ++c) sum += partial[static_cast<std::int64_t>(c) * num_heads + head];
  dsinks[head] += sum;
}

void sink_gradient(const Stream& stream, const Problem& p, const Tensor& sinks, const RowStats* stats,
                   float factor, const Tensor& dsinks) {
  constexpr int chunk = 64, threads = 64;
  const std::int64_t chunks = ceil_div(p.query_rows(), chunk);
  const unsigned head_blocks = static_cast<unsigned>(ceil_div(p.num_heads, threads));
  const Tensor partial = Tensor::empty({chunks, p.num_heads}, DType::f32, stream.device);
  launch(stream, {dim3(static_cast<unsigned>(chunks), head_blocks), dim3(threads)}, sink_gradient_kernel,
         p.query_rows(), p.num_heads, chunk, ParameterView::of(sinks), stats, factor,
         device_data<float>(partial));
  launch(stream, {dim3(head_blocks), dim3(threads)}, add_sinks_kernel, static_cast<int>(chunks), p.num_heads,
         device_data<float>(partial), device_data<float>(dsinks));
}

/// dk, dv (+)= the sums over a list's chunks, in order, where it was cut. A thread block per list and tile.
__global__ void add_chunks_kernel(const __grid_constant__ BackwardArguments a) {
  const Problem& p = a.problem;
  const KeyWorkView& work = a.work;
  const int list = static_cast<int>(blockIdx.x);
  const int chunks = work.item_start[list + 1] - work.item_start[list];
  if (chunks <= 1) return;
  const int slab = list / work.lists_per_slab, sequence = slab / p.num_kv_heads, group = slab % p.num_kv_heads;
  const int list_key = (list - slab * work.lists_per_slab) * work.list_keys;
  const int first_key = list_key + static_cast<int>(blockIdx.y) * key_tile;
  const int key_count = min(min(key_tile, list_key + work.list_keys - first_key), p.key_rows - first_key);
  const std::int64_t tile = 2 * key_tile * static_cast<std::int64_t>(p.head_dim);
  const float* from =
      a.partial + (static_cast<std::int64_t>(work.slot_start[list]) * gridDim.y + blockIdx.y) * tile;
  const int vectors = p.head_dim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * key_count * vectors; i += static_cast<int>(blockDim.x)) {
    const int which = i / (key_count * vectors), key = i / vectors % key_count, column = i % vectors * 4;
    const float* part = from + static_cast<std::int64_t>(which * key_tile + key) * p.head_dim + column;
    float sum[4] = {};
    for (int c = 0; c < chunks; ++c) {
      float x[4];
      load(part + c * gridDim.y * tile, x);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += x[j];
    }
    bf16* to = (which == 0 ? a.dk : a.dv) +
               ((static_cast<std::int64_t>(sequence) * p.key_rows + first_key + key) * p.num_kv_heads + group) *
                   p.head_dim +
               column;
    if (which == 0 ? a.add_dk : a.add_dv) {
      float x[4];
      load(to, x);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += x[j];
    }
    store(to, sum);
  }
}

void backward_bf16(const Stream& stream, const Problem& problem, const Tensor& q, const Tensor& k,
                   const Tensor& v, const Tensor& dout, const RowStats* stats,
                   const cpu::AttentionGradients& gradients) {
  const KeyWork work = make_key_work(stream, problem, true);
  const std::int64_t tiles = ceil_div(work.view.list_keys, key_tile);
  const Tensor partial =
      Tensor::empty({work.max_slots * tiles, 2 * key_tile, problem.head_dim}, DType::f32, stream.device);
  const BackwardArguments a{.problem = problem,
                            .q = device_data<bf16>(q),
                            .k = device_data<bf16>(k),
                            .v = device_data<bf16>(v),
                            .dout = device_data<bf16>(dout),
                            .stats = stats,
                            .dq = device_data<bf16>(gradients.q.buffer),
                            .dk = device_data<bf16>(gradients.k.buffer),
                            .dv = device_data<bf16>(gradients.v.buffer),
                            .add_dq = gradients.q.add,
                            .add_dk = gradients.k.add,
                            .add_dv = gradients.v.add,
                            .work = work.view,
                            .partial = device_data<float>(partial)};
  const auto run = [&]<int Columns>() {
    launch_query_gradients<Columns>(stream, a);
    launch_key_gradients<Columns>(stream, a, work);
  };
  if (problem.head_dim <= 32) {
    run.operator()<32>();
  } else if (problem.head_dim <= 64) {
    run.operator()<64>();
  } else if (problem.head_dim <= 128) {
    run.operator()<128>();
  } else {
    run.operator()<256>();
  }
  if (work.max_slots > 0) {
    launch(stream, {dim3(static_cast<unsigned>(work.view.lists), static_cast<unsigned>(tiles)), dim3(256)},
           add_chunks_kernel, a);
  }
}

}  // namespace

void attention_backward(const Stream& stream, const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                        const Tensor& out, const Tensor& lse, const Tensor& dout,
                        const cpu::AttentionGradients& gradients) {
  HYSPARSE_CHECK(sizes.start == 0 && sizes.key_rows == sizes.query_len, "backward from position {}, {} keys",
                 sizes.start, sizes.key_rows);
  const Problem problem(sizes, pattern);
  const std::int64_t rows = problem.query_rows() * problem.num_heads;
  if (rows == 0) return;
  const Tensor stats_memory = Tensor::empty({rows, 2}, DType::f32, stream.device);
  RowStats* stats = reinterpret_cast<RowStats*>(device_data<float>(stats_memory));
  const bool exact = q.dtype() != DType::bf16;
  const float factor = exact ? 1.0f : 1.4426950408889634f;
  dispatch_compute(q.dtype(), [&]<class T>() {
    const auto kernel =
        problem.head_dim % vector_width<T> == 0 ? row_stats_kernel<T, vector_width<T>> : row_stats_kernel<T, 1>;
    launch(stream, {dim3(static_cast<unsigned>(ceil_div(rows, 16))), dim3(256)}, kernel, rows, problem.head_dim,
           device_data<T>(out), device_data<T>(dout), device_data<float>(lse), factor, stats);
  });
  if (gradients.sinks.defined()) sink_gradient(stream, problem, sinks, stats, factor, gradients.sinks);
  if (exact) {
    exact_backward(stream, problem, q, k, v, dout, stats, make_key_work(stream, problem, false), gradients);
  } else {
    backward_bf16(stream, problem, q, k, v, dout, stats, gradients);
  }
}

}  // namespace hysparse::cuda
