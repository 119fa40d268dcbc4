/// Experts on plain units: any size, f32 or bf16, sums in f32. Products of f32 are exact to f32's rounding.
#pragma once

#include "moe/cuda/experts.h"

namespace hysparse::cuda::plain {

void experts_forward(const Stream& stream, const cpu::ExpertsForward& args);
void experts_backward(const Stream& stream, const cpu::ExpertsBackward& args);
void experts_weight_gradient(const Stream& stream, const cpu::ExpertsWeightGradient& args);

}  // namespace hysparse::cuda::plain
