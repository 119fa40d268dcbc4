#include "core/cpu/swiglu.h"

#include "core/cpu/lanes.h"
#include "core/cpu/math.h"
#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

constexpr std::int64_t grain = 1 << 12;

template <class T>
struct Derivatives {
  T h, dgate, dup;  // silu(gate) * up, and its derivatives with respect to gate and up
};

template <class T>
Derivatives<T> derive(T gate, T up) {
  const T s = sigmoid(gate);
  const T silu = gate * s;
  return {silu * up, up * (s + silu * (T(1) - s)), silu};
}

// ivdep: outputs are the inputs themselves or apart from them, so iterations are independent.
template <class T>
void row(std::int64_t n, const T* gate, const T* up, T weight, T* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) out[i] = weight * (gate[i] * sigmoid(gate[i]) * up[i]);
}

template <class T>
T row_backward(std::int64_t n, const T* gate, const T* up, T weight, const T* dout, T* out, T* dgate, T* dup) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    const Derivatives<T> d = derive(gate[i], up[i]);
    const T g = weight * dout[i];
    out[i] = d.h;
    dgate[i] = g * d.dgate;
    dup[i] = g * d.dup;
  }
  const T dweight = lane_sum<T>(n, [=](std::int64_t i) { return dout[i] * out[i]; });
  for (std::int64_t i = 0; i < n; ++i) out[i] *= weight;
  return dweight;
}

template <class T>
void backward_range(std::int64_t n, const T* gate, const T* up, const T* dout, T* dgate, bool add_gate, T* dup,
                    bool add_up) {
  if (dgate != nullptr && dup != nullptr && !add_gate && !add_up) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
      const Derivatives<T> d = derive(gate[i], up[i]);
      const T g = dout[i];
      dgate[i] = g * d.dgate;
      dup[i] = g * d.dup;
    }
    return;
  }
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    const Derivatives<T> d = derive(gate[i], up[i]);
    const T g = dout[i];
    if (dgate != nullptr) dgate[i] = (add_gate ? dgate[i] : T(0)) + g * d.dgate;
    if (dup != nullptr) dup[i] = (add_up ? dup[i] : T(0)) + g * d.dup;
  }
}

}  // namespace

void swiglu_forward(const Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out) {
  dispatch_float(out.dtype(), [&]<class T>() {
    const T *g = gate.data<T>(), *u = up.data<T>();
    T* o = out.data<T>();
    stream.pool->parallel_for(out.numel(), grain, [=](std::int64_t begin, std::int64_t end) {
      row(end - begin, g + begin, u + begin, T(1), o + begin);
    });
  });
}

void swiglu_backward(const Stream& stream, const SwigluBackward& args) {
  dispatch_float(args.dout.dtype(), [&]<class T>() {
    const T *g = args.gate.data<T>(), *u = args.up.data<T>(), *dout = args.dout.data<T>();
    T* dg = args.dgate.defined() ? args.dgate.data<T>() : nullptr;
    T* du = args.dup.defined() ? args.dup.data<T>() : nullptr;
    stream.pool->parallel_for(args.dout.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
      backward_range(end - begin, g + begin, u + begin, dout + begin, dg == nullptr ? nullptr : dg + begin,
                     args.add_gate, du == nullptr ? nullptr : du + begin, args.add_up);
    });
  });
}

void swiglu_row(std::int64_t n, const float* gate, const float* up, float weight, float* out) {
  row(n, gate, up, weight, out);
}
void swiglu_row(std::int64_t n, const double* gate, const double* up, double weight, double* out) {
  row(n, gate, up, weight, out);
}
float swiglu_row_backward(std::int64_t n, const float* gate, const float* up, float weight, const float* dout,
                          float* out, float* dgate, float* dup) {
  return row_backward(n, gate, up, weight, dout, out, dgate, dup);
}
double swiglu_row_backward(std::int64_t n, const double* gate, const double* up, double weight,
                           const double* dout, double* out, double* dgate, double* dup) {
  return row_backward(n, gate, up, weight, dout, out, dgate, dup);
}

}  // namespace hysparse::cpu
