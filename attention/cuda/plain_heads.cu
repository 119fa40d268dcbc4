#include "attention/cuda/plain_heads.h"
#include "attention/cuda/problem.cuh"

namespace hysparse::cuda::plain {
namespace {

constexpr int threads = 128;

/// Of the heads of x [rows, heads * head_dim].
struct Heads {
  std::int64_t count;  ///< rows * heads
  int per_row, head_dim, half;
  std::int64_t length;  ///< rows of the table
  const float* table;
  ParameterView weight;  ///< null: no norm
  float eps;
  const std::int32_t* documents;

  Heads(const cpu::NormRope& op, const Tensor& x)
      : count(x.numel() / op.head_dim),
        per_row(static_cast<int>(x.dim(1) / op.head_dim)),
        head_dim(static_cast<int>(op.head_dim)),
        half(static_cast<int>(op.table.dim(1) / 2)),
        length(op.table.dim(0)),
        table(device_data<float>(op.table)),
        weight(ParameterView::of(op.weight)),
        eps(static_cast<float>(op.eps)),
        documents(device_data_or_null<std::int32_t>(op.documents)) {}

  /// cos of the head's angles, sin `half` behind.
  __device__ const float* angles(std::int64_t head) const {
    const std::int64_t row = head / per_row;
    const std::int64_t position = row % length - (documents != nullptr ? documents[row] : 0);
    return table + position * 2 * half;
  }
  /// The feature that e is rotated with; e itself where it is not.
  __device__ int partner(int e) const { return e >= 2 * half ? e : e < half ? e + half : e - half; }
};

template <class T>
__device__ float inverse_norm(const Heads& a, const T* x) {
  float squares = 0.0f;
  for (int e = 0; e < a.head_dim; ++e) squares = fmaf(to_float(x[e]), to_float(x[e]), squares);
  return 1.0f / sqrtf(squares / static_cast<float>(a.head_dim) + a.eps);
}

/// Element e of the rotation of v (a function of e), forward: sign 1, its inverse: sign -1.
template <class Value>
__device__ float rotated(const Heads& a, const float* angles, int e, float sign, const Value& value) {
  const int other = a.partner(e);
  if (other == e) return value(e);
  const bool upper = e >= a.half;
  const int pair = upper ? other : e;
  const float sine = (upper ? sign : -sign) * angles[a.half + pair];
  return value(e) * angles[pair] + value(other) * sine;
}

template <class T>
__global__ void norm_rope_forward_kernel(const __grid_constant__ Heads a, const T* x, T* y) {
  const std::int64_t head = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x;
  if (head >= a.count) return;
  const T* from = x + head * a.head_dim;
  const float inverse = a.weight.data != nullptr ? inverse_norm(a, from) : 1.0f;
  const auto normed = [&](int e) {
    return a.weight.data != nullptr ? to_float(from[e]) * (inverse * a.weight[e]) : to_float(from[e]);
  };
  for (int e = 0; e < a.head_dim; ++e)
    y[head * a.head_dim + e] = from_float<T>(rotated(a, a.angles(head), e, 1.0f, normed));
}

/// terms [count, head_dim]: what each head adds to dweight; null: not wanted.
template <class T>
__global__ void norm_rope_backward_kernel(const __grid_constant__ Heads a, const T* x, const T* dy, T* dx,
                                          bool add_dx, float* terms) {
  const std::int64_t head = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x;
  if (head >= a.count) return;
  const bool norm = a.weight.data != nullptr;
  const T *gradient = dy + head * a.head_dim, *own = norm ? x + head * a.head_dim : nullptr;
  const float* angles = a.angles(head);
  const auto back = [&](int e) {
    return rotated(a, angles, e, -1.0f, [&](int i) { return to_float(gradient[i]); });
  };
  const float inverse = norm ? inverse_norm(a, own) : 1.0f;
  float along = 0.0f;
  for (int e = 0; norm && e < a.head_dim; ++e) along = fmaf(back(e) * a.weight[e], to_float(own[e]), along);
  along *= inverse * inverse * inverse / static_cast<float>(a.head_dim);
  for (int e = 0; e < a.head_dim; ++e) {
    const std::int64_t at = head * a.head_dim + e;
    float g = back(e);
    if (norm) {
      if (terms != nullptr) terms[at] = g * to_float(own[e]) * inverse;
      g = inverse * g * a.weight[e] - along * to_float(own[e]);
    }
    dx[at] = from_float<T>(add_dx ? to_float(dx[at]) + g : g);
  }
}

/// dweight[e] += sum over heads of terms[head, e]: a block per element, 128 interleaved sums, added in order.
__global__ void sum_terms_kernel(std::int64_t count, int head_dim, const float* terms, float* dweight) {
  __shared__ float sums[threads];
  float sum = 0.0f;
  for (std::int64_t head = threadIdx.x; head < count; head += threads)
    sum += terms[head * head_dim + blockIdx.x];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < threads; ++i) sum += sums[i];
  dweight[blockIdx.x] += sum;
}

template <class T>
struct Branch {
  const T *x = nullptr, *logits = nullptr;
  bool elementwise = false;

  Branch() = default;
  Branch(const cpu::GateInput& input, const Shape& y)
      : x(device_data_or_null<T>(input.x)),
        logits(device_data_or_null<T>(input.logits)),
        elementwise(logits != nullptr && input.logits.shape() == y) {}
  __device__ float gate(std::int64_t at, int head_dim) const {
    if (logits == nullptr) return 1.0f;
    return 1.0f / (1.0f + expf(-to_float(logits[elementwise ? at : at / head_dim])));
  }
};

template <class T>
__global__ void gated_sum_forward_kernel(std::int64_t count, int head_dim, Branch<T> first, Branch<T> second,
                                         T* y) {
  const std::int64_t at = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x;
  if (at >= count) return;
  float sum = first.gate(at, head_dim) * to_float(first.x[at]);
  if (second.x != nullptr) sum = fmaf(second.gate(at, head_dim), to_float(second.x[at]), sum);
  y[at] = from_float<T>(sum);
}

template <class T>
__global__ void gated_sum_backward_kernel(std::int64_t heads, int head_dim, Branch<T> branch, const T* dy,
                                          T* dx, bool add_dx, T* dlogits, bool add_dlogits) {
  const std::int64_t head = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x;
  if (head >= heads) return;
  const auto put = [](T& to, float value, bool add) { to = from_float<T>(add ? to_float(to) + value : value); };
  float sum = 0.0f;
  for (int e = 0; e < head_dim; ++e) {
    const std::int64_t at = head * head_dim + e;
    const float gate = branch.gate(at, head_dim), g = to_float(dy[at]);
    if (branch.logits != nullptr) {
      const float dgate = g * to_float(branch.x[at]) * gate * (1.0f - gate);
      if (branch.elementwise) put(dlogits[at], dgate, add_dlogits);
      sum += dgate;
    }
    put(dx[at], g * gate, add_dx);
  }
  if (branch.logits != nullptr && !branch.elementwise) put(dlogits[head], sum, add_dlogits);
}

Launch one_each(std::int64_t count) {
  return {dim3(static_cast<unsigned>(ceil_div(count, threads))), dim3(threads)};
}

}  // namespace

void norm_rope_forward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& y) {
  const Heads a(op, x);
  if (a.count == 0) return;
  dispatch_compute(x.dtype(), [&]<class T>() {
    launch(stream, one_each(a.count), norm_rope_forward_kernel<T>, a, device_data<T>(x), device_data<T>(y));
  });
}

void norm_rope_backward(const Stream& stream, const cpu::NormRope& op, const Tensor& x, const Tensor& dy,
                        const Tensor& dx, bool add_dx, const Tensor& dweight) {
  const Heads a(op, dy);
  if (a.count == 0) return;
  const bool sums = op.weight.defined() && dweight.defined();
  const Tensor terms = Tensor::empty({sums ? a.count : 0, op.head_dim}, DType::f32, stream.device);
  dispatch_compute(dy.dtype(), [&]<class T>() {
    launch(stream, one_each(a.count), norm_rope_backward_kernel<T>, a,
           op.weight.defined() ? device_data<T>(x) : nullptr, device_data<T>(dy), device_data<T>(dx), add_dx,
           sums ? device_data<float>(terms) : nullptr);
  });
  if (!sums) return;
  launch(stream, {dim3(static_cast<unsigned>(op.head_dim)), dim3(threads)}, sum_terms_kernel, a.count,
         a.head_dim, device_data<float>(terms), device_data<float>(dweight));
}

void gated_sum_forward(const Stream& stream, std::span<const cpu::GateInput> branches, std::int64_t num_heads,
                       const Tensor& y) {
  if (y.numel() == 0) return;
  dispatch_compute(y.dtype(), [&]<class T>() {
    launch(stream, one_each(y.numel()), gated_sum_forward_kernel<T>, y.numel(),
           static_cast<int>(y.dim(1) / num_heads), Branch<T>(branches[0], y.shape()),
           branches.size() > 1 ? Branch<T>(branches[1], y.shape()) : Branch<T>(), device_data<T>(y));
  });
}

void gated_sum_backward(const Stream& stream, const cpu::GateInput& branch, std::int64_t num_heads,
                        const Tensor& dy, const Tensor& dx, bool add_dx, const Tensor& dlogits,
                        bool add_dlogits) {
  const std::int64_t heads = dy.dim(0) * num_heads;
  if (heads == 0) return;
  dispatch_compute(dy.dtype(), [&]<class T>() {
    launch(stream, one_each(heads), gated_sum_backward_kernel<T>, heads,
           static_cast<int>(dy.dim(1) / num_heads), Branch<T>(branch, dy.shape()), device_data<T>(dy),
           device_data<T>(dx), add_dx, device_data_or_null<T>(dlogits), add_dlogits);
  });
}

}  // namespace hysparse::cuda::plain
