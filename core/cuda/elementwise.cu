#include "core/cuda/elementwise.h"
#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {
namespace {

constexpr int threads = 256;

// Inputs may be the output: each thread reads its elements before it writes them.
template <class T, int N>
__global__ void add_kernel(std::int64_t n, const T* a, const T* b, T* out) {
  for_each_vector<N>(n, [=]<int M>(std::int64_t i) {
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
      float x[M], y[M];
      load<M>(a + i, x);
      load<M>(b + i, y);
#pragma unroll
      for (int j = 0; j < M; ++j) x[j] += y[j];
      store<M>(out + i, x);
    } else {
      out[i] = a[i] + b[i];
    }
  });
}

template <class T, int N>
void launch_add(const Stream& stream, std::int64_t n, const T* a, const T* b, T* out) {
  launch(stream, {grid_for(n, threads * N), threads}, add_kernel<T, N>, n, a, b, out);
}

template <class T>
void add_tensors(const Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out) {
  const T *x = device_data<T>(a), *y = device_data<T>(b);
  T* o = device_data<T>(out);
  constexpr bool narrow = sizeof(T) < 8;
  if constexpr (narrow) {
    if (aligned_to(16, x, y, o)) return launch_add<T, vector_width<T>>(stream, out.numel(), x, y, o);
  }
  launch_add<T, 1>(stream, out.numel(), x, y, o);
}

template <class From, class To, int N>
__global__ void convert_kernel(std::int64_t n, const From* from, To* to) {
  for_each_vector<N>(n, [=]<int M>(std::int64_t i) {
    if constexpr (std::is_same_v<From, double>) {
      to[i] = from_float<To>(static_cast<float>(from[i]));
    } else if constexpr (std::is_same_v<To, double>) {
      to[i] = static_cast<double>(to_float(from[i]));
    } else {
      float x[M];
      load<M>(from + i, x);
      store<M>(to + i, x);
    }
  });
}

template <class From, class To>
void convert_tensor(const Stream& stream, const Tensor& from, const Tensor& to) {
  constexpr int width = std::is_same_v<From, double> || std::is_same_v<To, double> ? 1 : 4;
  const From* f = device_data<From>(from);
  To* t = device_data<To>(to);
  const std::int64_t n = to.numel();
  if (width > 1 && aligned_to(sizeof(From) * width, f) && aligned_to(sizeof(To) * width, t)) {
    launch(stream, {grid_for(n, threads * width), threads}, convert_kernel<From, To, width>, n, f, t);
  } else {
    launch(stream, {grid_for(n, threads), threads}, convert_kernel<From, To, 1>, n, f, t);
  }
}

bool is_pair(const Tensor& from, DType f, const Tensor& to, DType t) {
  return from.dtype() == f && to.dtype() == t;
}

}  // namespace

void add(const Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out) {
  switch (out.dtype()) {
    case DType::f64:
      return add_tensors<double>(stream, a, b, out);
    case DType::i64:
      return add_tensors<std::int64_t>(stream, a, b, out);
    default:
      dispatch_compute(out.dtype(), [&]<class T>() { add_tensors<T>(stream, a, b, out); });
  }
}

void add_in_place(const Stream& stream, const Tensor& out, const Tensor& in) {
  add(stream, out, in, out);
}

void convert(const Stream& stream, const Tensor& from, const Tensor& to) {
  HYSPARSE_CHECK(from.shape() == to.shape(), "{} from {}", to.shape().str(), from.shape().str());
  using enum DType;
  if (is_pair(from, f32, to, bf16)) return convert_tensor<float, cuda::bf16>(stream, from, to);
  if (is_pair(from, bf16, to, f32)) return convert_tensor<cuda::bf16, float>(stream, from, to);
  if (is_pair(from, f64, to, f32)) return convert_tensor<double, float>(stream, from, to);
  if (is_pair(from, f32, to, f64)) return convert_tensor<float, double>(stream, from, to);
  if (is_pair(from, bf16, to, f64)) return convert_tensor<cuda::bf16, double>(stream, from, to);
  if (is_pair(from, f64, to, bf16)) return convert_tensor<double, cuda::bf16>(stream, from, to);
  HYSPARSE_CHECK(false, "from {} to {}", dtype_name(from.dtype()), dtype_name(to.dtype()));
}

}  // namespace hysparse::cuda
