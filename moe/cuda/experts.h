/// cpu/experts.h with device tensors: all f32, or all bf16 with f32 slot weights and gradients of weights.
/// Sizes lie on the device: nothing waits for it.
///
/// bf16 with D and F multiples of 8 runs on the tensor cores, sums in f32: SwiGLU and its backward are made of
/// the sums before rounding, in the tail of the product before them. All else runs on plain units.
#pragma once

#include "moe/cpu/experts.h"

namespace hysparse::cuda {

void experts_forward(const Stream& stream, const cpu::ExpertsForward& args);
/// Leaves dout_rows undefined: the gradients of the weights gather dout themselves.
void experts_backward(const Stream& stream, cpu::ExpertsBackward& args);
void experts_weight_gradient(const Stream& stream, const cpu::ExpertsWeightGradient& args);

}  // namespace hysparse::cuda
