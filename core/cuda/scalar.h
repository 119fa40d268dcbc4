/// cpu/scalar.h with device tensors.
#pragma once

#include "core/cpu/scalar.h"

namespace hysparse::cuda {

void fill(const Stream& stream, const Tensor& out, double value);
void sum_terms(const Stream& stream, const Tensor& terms, const Tensor& total);

}  // namespace hysparse::cuda
