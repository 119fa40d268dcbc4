// Integer atomics count; nothing depends on their order.
#include "moe/cuda/ranking.cuh"
#include "moe/cuda/router.h"

namespace hysparse::cuda {
namespace {

constexpr int block = 256, drop_warps = 32;

unsigned long long* counters(const Tensor& counts) {
  return reinterpret_cast<unsigned long long*>(device_data<std::int64_t>(counts));
}

__global__ void balanced_choices_kernel(std::int64_t first, int experts, std::int64_t n, int* ids) {
  const std::int64_t a = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (a < n) ids[a] = static_cast<int>((first + a) % experts);
}

__global__ void count_kernel(const int* ids, std::int64_t n, int experts, unsigned long long* counts) {
  extern __shared__ int here[];
  for (int e = threadIdx.x; e < experts; e += blockDim.x) here[e] = 0;
  __syncthreads();
  for (std::int64_t a = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; a < n;
       a += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    atomicAdd(&here[ids[a]], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    if (here[e] > 0) atomicAdd(&counts[e], static_cast<unsigned long long>(here[e]));
  }
}

__global__ void put(std::int64_t value, std::int64_t* to) {
  *to = value;
}

__global__ void sum_open_sequence_kernel(const std::int64_t* gathered, std::int64_t ranks,
                                         std::int64_t sequence, int experts, std::int64_t* taken) {
  const int e = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (e >= experts) return;
  std::int64_t sum = 0;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const std::int64_t* theirs = gathered + rank * (experts + 1);
    if (theirs[experts] == sequence) sum += theirs[e];
  }
  taken[e] = sum;
}

struct Drop {
  int* ids;
  float* weights;
  const std::int64_t* taken;
  std::int64_t first_token, end_token, seq_len, capacity;
  int experts, slots;
  unsigned long long* dropped;
};
__global__ void __launch_bounds__(drop_warps* warp_size) drop_kernel(const Drop d) {
  extern __shared__ int counts[];
  __shared__ int dropped;
  if (threadIdx.x == 0) dropped = 0;
  const std::int64_t sequence = d.first_token / d.seq_len + blockIdx.x;
  const std::int64_t begin = max(sequence * d.seq_len, d.first_token) - d.first_token;
  const std::int64_t end = min((sequence + 1) * d.seq_len, d.end_token) - d.first_token;
  rank_stably(
      d.ids, begin * d.slots, end * d.slots, d.experts, counts,
      [&](int e) { return blockIdx.x == 0 ? static_cast<int>(d.taken[e]) : 0; },
      [&](std::int64_t a, int, int rank) {
        if (rank < d.capacity) return;
        d.ids[a] = -1;
        d.weights[a] = 0;
        atomicAdd(&dropped, 1);
      });
  __syncthreads();
  if (threadIdx.x == 0 && dropped > 0) atomicAdd(d.dropped, static_cast<unsigned long long>(dropped));
}

/// A block has a sequence.
__global__ void count_by_sequence_kernel(const int* ids, std::int64_t first_token, std::int64_t rows,
                                         std::int64_t seq_len, int slots, int experts, double* counts) {
  extern __shared__ int here[];
  for (int e = threadIdx.x; e < experts; e += blockDim.x) here[e] = 0;
  __syncthreads();
  const std::int64_t begin = max(blockIdx.x * seq_len - first_token, std::int64_t{0});
  const std::int64_t end = min((blockIdx.x + 1) * seq_len - first_token, rows);
  for (std::int64_t a = begin * slots + threadIdx.x; a < end * slots; a += blockDim.x)
    atomicAdd(&here[ids[a]], 1);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    counts[static_cast<std::int64_t>(blockIdx.x) * experts + e] = here[e];
}

}  // namespace

void balanced_choices(const Stream& stream, std::int64_t first_token, std::int64_t num_experts,
                      const Tensor& ids) {
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(ids.numel(), block))), dim3(block)},
         balanced_choices_kernel, first_token * ids.dim(1) % num_experts, static_cast<int>(num_experts),
         ids.numel(), device_data<int>(ids));
}

void count_assignments(const Stream& stream, const Tensor& ids, const Tensor& counts) {
  counts.zero_();
  launch(stream, {dim3(grid_for(ids.numel(), 8 * block, 1)), dim3(block), ranking_bytes(1, counts.numel())},
         count_kernel, device_data<int>(ids), ids.numel(), static_cast<int>(counts.numel()), counters(counts));
}

void count_open_sequence(const Stream& stream, const Tensor& ids, std::int64_t sequence, const Tensor& counts) {
  const std::int64_t experts = counts.numel() - 1;
  count_assignments(stream, ids, counts.slice(0, experts));
  launch(stream, {dim3(1), dim3(1)}, put, sequence, device_data<std::int64_t>(counts) + experts);
}

void sum_open_sequence(const Stream& stream, const Tensor& gathered, std::int64_t ranks, std::int64_t sequence,
                       const Tensor& taken) {
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(taken.numel(), block))), dim3(block)},
         sum_open_sequence_kernel, device_data<std::int64_t>(gathered), ranks, sequence,
         static_cast<int>(taken.numel()), device_data<std::int64_t>(taken));
}

void drop_over_capacity(const Stream& stream, const cpu::DropOverCapacity& args) {
  args.dropped.zero_();
  const std::int64_t tokens = args.ids.dim(0), end_token = args.first_token + tokens;
  if (tokens == 0) return;
  const std::int64_t sequences = (end_token - 1) / args.seq_len - args.first_token / args.seq_len + 1;
  const int warps = ranking_warps(args.taken.numel(), drop_warps);
  launch(stream,
         {dim3(static_cast<unsigned>(sequences)), dim3(warps * warp_size),
          ranking_bytes(warps, args.taken.numel())},
         drop_kernel,
         Drop{device_data<int>(args.ids), device_data<float>(args.weights),
              device_data<std::int64_t>(args.taken), args.first_token, end_token, args.seq_len, args.capacity,
              static_cast<int>(args.taken.numel()), static_cast<int>(args.ids.dim(1)), counters(args.dropped)});
}

void count_by_sequence(const Stream& stream, const Tensor& ids, std::int64_t first_token, std::int64_t seq_len,
                       const Tensor& counts) {
  launch(stream, {dim3(static_cast<unsigned>(counts.dim(0))), dim3(1024), ranking_bytes(1, counts.dim(1))},
         count_by_sequence_kernel, device_data<int>(ids), first_token, ids.dim(0), seq_len,
         static_cast<int>(ids.dim(1)), static_cast<int>(counts.dim(1)), device_data<double>(counts));
}

}  // namespace hysparse::cuda
