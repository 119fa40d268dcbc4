/// cpu::ExpertRows for device code.
#pragma once

#include "moe/cpu/experts.h"
#include "moe/cuda/schedule.cuh"

namespace hysparse::cuda {

inline RowsOfExperts rows_on_device(const cpu::ExpertRows& rows) {
  return {device_data<int>(rows.offsets), device_data<int>(rows.sources), device_data<int>(rows.assignments),
          static_cast<int>(rows.offsets.numel() - 1)};
}

}  // namespace hysparse::cuda
