#include "moe/cuda/experts.h"

#include "moe/cuda/experts_mma.h"
#include "moe/cuda/experts_plain.h"

namespace hysparse::cuda {

void experts_forward(const Stream& stream, const cpu::ExpertsForward& args) {
  if (mma::can_run(args)) return mma::experts_forward(stream, args);
  plain::experts_forward(stream, args);
}

void experts_backward(const Stream& stream, cpu::ExpertsBackward& args) {
  if (mma::can_run(args)) return mma::experts_backward(stream, args);
  plain::experts_backward(stream, args);
}

void experts_weight_gradient(const Stream& stream, const cpu::ExpertsWeightGradient& args) {
  if (mma::can_run(args)) return mma::experts_weight_gradient(stream, args);
  plain::experts_weight_gradient(stream, args);
}

}  // namespace hysparse::cuda
