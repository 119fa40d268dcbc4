/// What "100 %" means in MFU on a CPU: no datasheet gives it, so it is measured.
#pragma once

#include "core/device.h"

namespace hysparse {

/// Best of a few f32 products of 768 x 768 x 768 on the stream's threads, in FLOP/s: about 50 ms.
double measure_peak_flops(const Stream& stream);

}  // namespace hysparse
