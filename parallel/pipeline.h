/// Runs one stage's part of a pipeline schedule: what to compute is the caller's, what crosses between stages
/// and when is the schedule's.
#pragma once

#include <vector>

#include "core/tensor.h"
#include "parallel/communicator.h"
#include "parallel/schedule.h"

namespace hysparse {

/// One tensor that crosses every boundary between two chunks.
struct TensorSpec {
  Shape shape;
  DType dtype = DType::f32;
  bool has_gradient = true;  ///< false (block lists, ids): only activations cross
};

/// The chunks of this stage. Tensors given away by the return value may be sent from later on, until
/// run_pipeline returns: they must not be written any more. Exceptions pass through run_pipeline.
class PipelineWork {
 public:
  virtual ~PipelineWork() = default;
  /// `input`: as the boundary says; empty for global chunk 0. Returns what the next chunk reads, likewise; the
  /// last global chunk returns nothing.
  virtual std::vector<Tensor> forward(int chunk, int micro_batch, std::vector<Tensor> input) = 0;
  /// `gradients`: of the outputs that have one, in their order; empty for the last global chunk. Returns those
  /// of the inputs that have one, likewise (an undefined one stands for zero); global chunk 0 returns nothing.
  virtual std::vector<Tensor> backward(int chunk, int micro_batch, std::vector<Tensor> gradients) = 0;
};

/// Executes `actions`, the list of rank pp.rank() of a schedule over `stages` == pp.size() stages. Collective:
/// every stage runs its list of the same schedule with the same boundary.
///
/// Receives are posted when their place in the list comes and one further ahead; they are waited for when their
/// chunk needs them. Sends start at their place and are waited for at the end, or found complete before; their
/// tensors are kept until then. Each tensor is a message of its own, tag = ((boundary * 2) + is_gradient) *
/// tensors + index. With one stage nothing is sent: chunks hand their tensors on.
void run_pipeline(const std::vector<Action>& actions, int stages, PipelineWork& work, Communicator& pp,
                  const std::vector<TensorSpec>& boundary, Device device);

}  // namespace hysparse
