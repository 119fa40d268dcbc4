/// cpu/rms_norm.h with device tensors: x, delta, weight, sum, y, dy, dsum, dx, ddelta of one dtype, f32 or
/// bf16; reciprocal and dweight f32. Sums are in f32, over blocks of rows whose number depends on R alone.
#pragma once

#include "core/cpu/rms_norm.h"

namespace hysparse::cuda {

void rms_norm_forward(const Stream& stream, const cpu::RmsNormForward& args);
void rms_norm_backward(const Stream& stream, const cpu::RmsNormBackward& args);

}  // namespace hysparse::cuda
