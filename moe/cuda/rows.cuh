/// cpu::ExpertRows for device code.
#pragma once

#include "moe/cpu/experts.h"
#include "moe/cuda/schedule.cuh"

namespace hysparse::cuda {

inline RowsOfExperts rows_on_device(const cpu::ExpertRows& rows) {
  return {device_data<int>(rows.offsets), device_data<int>(rows.sources), device_data<int>(rows.assignments),
          static_cast<int>(rows.offsets.numel() - 1)};
}

/// D of the gradients of weights, of which x and dout may have more columns; 0 where no gradient is wanted.
inline std::int64_t hidden_size_of(const cpu::ExpertsWeightGradient& args) {
  for (const Tensor* t : {&args.dweights.gate, &args.dweights.up, &args.dweights.down}) {
    if (t->defined()) return t->numel() / std::max<std::int64_t>(1, t->dim(0) * args.dgate.dim(1));
  }
  return 0;
}

}  // namespace hysparse::cuda
