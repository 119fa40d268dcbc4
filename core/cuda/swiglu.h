/// cpu/swiglu.h with device tensors of one dtype, f32 or bf16.
#pragma once

#include "core/cpu/swiglu.h"

namespace hysparse::cuda {

void swiglu_forward(const Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out);
void swiglu_backward(const Stream& stream, const cpu::SwigluBackward& args);

}  // namespace hysparse::cuda
