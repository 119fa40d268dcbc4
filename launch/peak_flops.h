/// What "100 %" means in MFU on a CPU: no datasheet gives it, so it is measured.
#pragma once

#include "core/device.h"

namespace hysparse {

/// FLOP/s to judge a step by. CPU: the best of a few f32 products of 768 x 768 x 768 on the stream's threads,
/// about 50 ms. GPU: the data sheet's dense bf16 figure where the model is known, else 0.
double measure_peak_flops(const Stream& stream);

}  // namespace hysparse
