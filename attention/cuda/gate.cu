/// gated_sum: elements in vectors of 8; headwise gates' gradients by the lanes of a head.
#include "attention/cuda/gate.h"
#include "attention/cuda/heads.cuh"
#include "attention/cuda/plain_heads.h"

namespace hysparse::cuda {
namespace {

constexpr int threads = 256;

enum class Gates { none, headwise, elementwise };

template <class T>
struct Branch {
  const T *x = nullptr, *logits = nullptr;
  Gates gates = Gates::none;

  Branch() = default;
  Branch(const cpu::GateInput& input, const Shape& y)
      : x(device_data_or_null<T>(input.x)), logits(device_data_or_null<T>(input.logits)) {
    if (logits != nullptr) gates = input.logits.shape() == y ? Gates::elementwise : Gates::headwise;
  }
};

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

/// Gates of elements [at, at + 8), which belong to one head.
template <class T>
__device__ __forceinline__ void load_gates(const Branch<T>& branch, std::int64_t at, int head_dim,
                                           float (&gates)[lane_width]) {
  if (branch.gates == Gates::elementwise) {
    load_8(branch.logits + at, gates);
#pragma unroll
    for (int i = 0; i < lane_width; ++i) gates[i] = sigmoid(gates[i]);
    return;
  }
  const float gate = branch.gates == Gates::none ? 1.0f : sigmoid(to_float(branch.logits[at / head_dim]));
#pragma unroll
  for (int i = 0; i < lane_width; ++i) gates[i] = gate;
}

template <class T>
__global__ void __launch_bounds__(threads)
    gated_sum_forward_kernel(std::int64_t vectors, int head_dim, Branch<T> first, Branch<T> second, T* y) {
  for (std::int64_t v = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x; v < vectors;
       v += static_cast<std::int64_t>(gridDim.x) * threads) {
    const std::int64_t at = v * lane_width;
    float gates[lane_width], x[lane_width], sum[lane_width];
    load_gates(first, at, head_dim, gates);
    load_8(first.x + at, x);
#pragma unroll
    for (int i = 0; i < lane_width; ++i) sum[i] = gates[i] * x[i];
    if (second.x != nullptr) {
      load_gates(second, at, head_dim, gates);
      load_8(second.x + at, x);
#pragma unroll
      for (int i = 0; i < lane_width; ++i) sum[i] = fmaf(gates[i], x[i], sum[i]);
    }
    store_8(y + at, sum);
  }
}

/// `lanes` lanes per head.
template <class T>
__global__ void __launch_bounds__(threads)
    gated_sum_backward_kernel(std::int64_t heads, int head_dim, int lanes, Branch<T> branch, const T* dy, T* dx,
                              bool add_dx, T* dlogits, bool add_dlogits) {
  const int per_block = threads / lanes, first = static_cast<int>(threadIdx.x) % lanes * lane_width;
  for (std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * per_block; start < heads;
       start += static_cast<std::int64_t>(gridDim.x) * per_block) {
    const std::int64_t head = start + static_cast<int>(threadIdx.x) / lanes;
    const bool valid = head < heads && first < head_dim;
    const std::int64_t at = head * head_dim + first;
    float dgates[lane_width] = {}, gate = 0.0f;
    if (valid) {
      float gates[lane_width], g[lane_width], x[lane_width] = {};
      load_gates(branch, at, head_dim, gates);
      load_8(dy + at, g);
      if (branch.gates != Gates::none) load_8(branch.x + at, x);
      gate = gates[0];
#pragma unroll
      for (int i = 0; i < lane_width; ++i) {
        dgates[i] = g[i] * x[i];
        if (branch.gates == Gates::elementwise) dgates[i] *= gates[i] * (1.0f - gates[i]);
        g[i] *= gates[i];
      }
      put_8(dx + at, g, add_dx);
      if (branch.gates == Gates::elementwise) put_8(dlogits + at, dgates, add_dlogits);
    }
    if (branch.gates != Gates::headwise) continue;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < lane_width; ++i) sum += dgates[i];
    sum = head_sum(sum, lanes) * gate * (1.0f - gate);
    if (valid && first == 0) dlogits[head] = from_float<T>(add_dlogits ? to_float(dlogits[head]) + sum : sum);
  }
}

}  // namespace

void gated_sum_forward(const Stream& stream, std::span<const cpu::GateInput> branches, std::int64_t num_heads,
                       const Tensor& y) {
  const std::int64_t head_dim = y.dim(1) / num_heads, vectors = y.numel() / lane_width;
  if (head_dim % lane_width != 0) return plain::gated_sum_forward(stream, branches, num_heads, y);
  (void)lanes_of_head(head_dim);
  dispatch_compute(y.dtype(), [&]<class T>() {
    launch(stream, {dim3(grid_for(vectors, threads)), dim3(threads)}, gated_sum_forward_kernel<T>, vectors,
           static_cast<int>(head_dim), Branch<T>(branches[0], y.shape()),
           branches.size() > 1 ? Branch<T>(branches[1], y.shape()) : Branch<T>(), device_data<T>(y));
  });
}

void gated_sum_backward(const Stream& stream, const cpu::GateInput& branch, std::int64_t num_heads,
                        const Tensor& dy, const Tensor& dx, bool add_dx, const Tensor& dlogits,
                        bool add_dlogits) {
  const std::int64_t head_dim = dy.dim(1) / num_heads, heads = dy.dim(0) * num_heads;
  if (head_dim % lane_width != 0)
    return plain::gated_sum_backward(stream, branch, num_heads, dy, dx, add_dx, dlogits, add_dlogits);
  const int lanes = lanes_of_head(head_dim);
  dispatch_compute(dy.dtype(), [&]<class T>() {
    launch(stream, {dim3(grid_for(heads, threads / lanes)), dim3(threads)}, gated_sum_backward_kernel<T>, heads,
           static_cast<int>(head_dim), lanes, Branch<T>(branch, dy.shape()), device_data<T>(dy),
           device_data<T>(dx), add_dx, device_data_or_null<T>(dlogits), add_dlogits);
  });
}

}  // namespace hysparse::cuda
