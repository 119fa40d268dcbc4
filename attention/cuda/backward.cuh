/// Attention backward in bf16 on tensor cores, in two kernels that both recompute the probabilities P: dQ by
/// tiles of query rows, dK and dV by tiles of keys. With delta = rowsum(dO * O):
///   dV = P^T dO;  dS = P * (dO V^T - delta);  dQ = dS K / sqrt(E);  dK = dS^T Q / sqrt(E).
/// Each element is summed by one thread in a fixed order. dq, dk, dv are overwritten, or added to.
#pragma once

#include "attention/cuda/key_work.h"
#include "attention/cuda/problem.cuh"

namespace hysparse::cuda {

/// What both kernels need of a query row (token * H + head).
struct RowStats {
  float lse;  ///< times log2(e) for the tensor-core kernels; 0 for a row that saw nothing: every p is 0
  float delta;
};

struct BackwardArguments {
  Problem problem;
  const bf16 *q, *k, *v, *dout;
  const RowStats* stats;  ///< [S*T * H]
  bf16 *dq, *dk, *dv;
  bool add_dq, add_dk, add_dv;
  KeyWorkView work;
  float* partial;  ///< [slots, tiles of a list, 2, 64, E]: dK and dV of lists that are cut
};

/// Keys of a tile of the second kernel.
inline constexpr int key_tile = 64;

/// Both overwrite or add, but for lists that are cut: their sums are in `partial` then.
template <int Columns>
void launch_query_gradients(const Stream& stream, const BackwardArguments& arguments);
template <int Columns>
void launch_key_gradients(const Stream& stream, const BackwardArguments& arguments, const KeyWork& work);

}  // namespace hysparse::cuda
