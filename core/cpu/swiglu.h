/// SwiGLU: silu(gate) * up, silu(z) = z sigmoid(z).
#pragma once

#include "core/tensor.h"

namespace hysparse::cpu {

/// out = silu(gate) * up. out may alias gate or up.
void swiglu_forward(const Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out);
/// dgate and dup (either may be undefined) from dout; each is added to when its flag says so, and may alias
/// dout, gate or up otherwise.
struct SwigluBackward {
  Tensor gate, up, dout;
  Tensor dgate, dup;
  bool add_gate = false, add_up = false;
};
void swiglu_backward(const Stream& stream, const SwigluBackward& args);

/// One row of a mixture's expert, on the calling thread: out = weight * silu(gate) * up. out may alias gate or
/// up.
void swiglu_row(std::int64_t n, const float* gate, const float* up, float weight, float* out);
void swiglu_row(std::int64_t n, const double* gate, const double* up, double weight, double* out);
/// The same backward, with h = silu(gate) * up and dout = d(loss)/d(weight * h): out = weight * h again, dgate,
/// dup, and the gradient of weight, <dout, h>, returned. Outputs alias nothing.
float swiglu_row_backward(std::int64_t n, const float* gate, const float* up, float weight, const float* dout,
                          float* out, float* dgate, float* dup);
double swiglu_row_backward(std::int64_t n, const double* gate, const double* up, double weight,
                           const double* dout, double* out, double* dgate, double* dup);

}  // namespace hysparse::cpu
