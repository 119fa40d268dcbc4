/// A communicator for tensors of a GPU: collectives by NCCL, ordered with the compute stream, host tensors by
/// the host's communicator of the same group. Private to parallel/: others get theirs from ProcessGroups.
///
/// Collectives are enqueued on the compute stream and return at once; start_* ones run on a stream of their
/// own, between two events, and wait() makes the compute stream wait, not the host. Sums are NCCL's: the same
/// in every run of one layout, in an order of NCCL's choosing. Point-to-point messages between GPUs go by way
/// of host memory: NCCL has no tags, and matching by order alone would tie the pipeline's schedules to it.
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace hysparse {

/// Of the ranks of `host`, all of which call, each with its GPU opened (core/cuda/context.h). Throws Failure
/// when NCCL cannot connect them.
std::unique_ptr<Communicator> device_communicator(std::unique_ptr<Communicator> host);

/// Lets several ranks share a GPU, for tests: NCCL refuses two ranks of one host on one device, unless each
/// says it is a host of its own. Before the first communicator.
void share_gpu_between_ranks(int rank);

}  // namespace hysparse
