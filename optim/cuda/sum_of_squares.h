/// cpu/sum_of_squares.h with device tensors: x f32.
#pragma once

#include "optim/cpu/sum_of_squares.h"

namespace hysparse::cuda {

void sum_of_squares(const Stream& stream, const Tensor& x, std::span<const cpu::Range> ranges,
                    const Tensor& sum);

}  // namespace hysparse::cuda
