/// Experts on the tensor cores; which calls of cuda/experts.h can run there.
#pragma once

#include "moe/cuda/experts.h"

namespace hysparse::cuda::mma {

/// bf16, D and F multiples of 8, rows aligned to 16 bytes.
bool can_run(const cpu::ExpertsForward& args);
bool can_run(const cpu::ExpertsBackward& args);
bool can_run(const cpu::ExpertsWeightGradient& args);

void experts_forward(const Stream& stream, const cpu::ExpertsForward& args);
void experts_backward(const Stream& stream, const cpu::ExpertsBackward& args);
void experts_weight_gradient(const Stream& stream, const cpu::ExpertsWeightGradient& args);

}  // namespace hysparse::cuda::mma
