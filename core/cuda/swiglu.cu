#include "core/cuda/kernel.cuh"
#include "core/cuda/swiglu.h"

namespace hysparse::cuda {
namespace {

constexpr int threads = 256;

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

template <class T, int N>
__global__ void forward_kernel(std::int64_t n, const T* gate, const T* up, T* out) {
  for_each_vector<N>(n, [=]<int M>(std::int64_t i) {
    float g[M], u[M];
    load<M>(gate + i, g);
    load<M>(up + i, u);
#pragma unroll
    for (int j = 0; j < M; ++j) u[j] *= g[j] * sigmoid(g[j]);
    store<M>(out + i, u);
  });
}

/// out = d, or += d; null: nothing.
template <int M, class T>
__device__ __forceinline__ void write(T* out, bool add, float (&d)[M]) {
  if (out == nullptr) return;
  if (add) {
    float old[M];
    load<M>(out, old);
#pragma unroll
    for (int j = 0; j < M; ++j) d[j] += old[j];
  }
  store<M>(out, d);
}

template <class T, int N>
__global__ void backward_kernel(std::int64_t n, const T* gate, const T* up, const T* dout, T* dgate,
                                bool add_gate, T* dup, bool add_up) {
  for_each_vector<N>(n, [=]<int M>(std::int64_t i) {
    float g[M], u[M], d[M];
    load<M>(gate + i, g);
    load<M>(up + i, u);
    load<M>(dout + i, d);
    float dg[M], du[M];
#pragma unroll
    for (int j = 0; j < M; ++j) {
      const float s = sigmoid(g[j]), silu = g[j] * s;
      dg[j] = d[j] * u[j] * (s + silu * (1.0f - s));
      du[j] = d[j] * silu;
    }
    write<M>(dgate == nullptr ? nullptr : dgate + i, add_gate, dg);
    write<M>(dup == nullptr ? nullptr : dup + i, add_up, du);
  });
}

}  // namespace

void swiglu_forward(const Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out) {
  dispatch_compute(out.dtype(), [&]<class T>() {
    const T *g = device_data<T>(gate), *u = device_data<T>(up);
    T* o = device_data<T>(out);
    const auto run = [&]<int N>(void (*kernel)(std::int64_t, const T*, const T*, T*)) {
      launch(stream, {grid_for(out.numel(), threads * N), threads}, kernel, out.numel(), g, u, o);
    };
    constexpr int width = vector_width<T>;
    if (aligned_to(16, g, u, o)) return run.template operator()<width>(forward_kernel<T, width>);
    run.template operator()<1>(forward_kernel<T, 1>);
  });
}

void swiglu_backward(const Stream& stream, const cpu::SwigluBackward& args) {
  const std::int64_t n = args.dout.numel();
  dispatch_compute(args.dout.dtype(), [&]<class T>() {
    const T *g = device_data<T>(args.gate), *u = device_data<T>(args.up), *d = device_data<T>(args.dout);
    T *dg = device_data_or_null<T>(args.dgate), *du = device_data_or_null<T>(args.dup);
    const auto run = [&]<int N>(decltype(&backward_kernel<T, N>) kernel) {
      launch(stream, {grid_for(n, threads * N), threads}, kernel, n, g, u, d, dg, args.add_gate, du,
             args.add_up);
    };
    constexpr int width = vector_width<T>;
    if (aligned_to(16, g, u, d, dg, du)) return run.template operator()<width>(backward_kernel<T, width>);
    run.template operator()<1>(backward_kernel<T, 1>);
  });
}

}  // namespace hysparse::cuda
