// Integer atomics count; where they leave a choice of order, nothing depends on it.
#include "moe/cuda/dispatch.h"
#include "moe/cuda/ranking.cuh"

namespace hysparse::cuda {
namespace {

constexpr int order_warps = 8, scan_threads = 1024;
/// Assignments that a block sorts.
constexpr std::int64_t block_assignments = 2048;

/// block_counts [blocks, E].
__global__ void count_blocks(const int* ids, std::int64_t n, int experts, int* block_counts) {
  extern __shared__ int counts[];
  for (int e = threadIdx.x; e < experts; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  const std::int64_t begin = blockIdx.x * block_assignments;
  for (std::int64_t a = begin + threadIdx.x; a < min(n, begin + block_assignments); a += blockDim.x) {
    if (ids[a] >= 0) atomicAdd(&counts[ids[a]], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    block_counts[static_cast<std::int64_t>(blockIdx.x) * experts + e] = counts[e];
}

/// The sum of x over threads before this one; `total`: over all. scratch: 32 ints.
__device__ int exclusive_scan(int x, int* scratch, int& total) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  int inclusive = x;
  for (int offset = 1; offset < warp_size; offset *= 2) {
    const int other = __shfl_up_sync(all_lanes, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == warp_size - 1) scratch[warp] = inclusive;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / warp_size; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  __syncthreads();
  return before + inclusive - x;
}

/// One block: block_counts become how many earlier blocks have, offsets [E + 1] the sums over earlier experts.
__global__ void __launch_bounds__(scan_threads)
    scan_counts(int* block_counts, int blocks, int experts, int* offsets) {
  __shared__ int scratch[warp_size];
  int carry = 0;
  for (int first = 0; first < experts; first += scan_threads) {
    const int e = first + static_cast<int>(threadIdx.x);
    int sum = 0;
    if (e < experts) {
      int* at = block_counts + e;
#pragma unroll 8
      for (int b = 0; b < blocks; ++b) {
        const int here = at[static_cast<std::int64_t>(b) * experts];
        at[static_cast<std::int64_t>(b) * experts] = sum;
        sum += here;
      }
    }
    int total;
    const int before = carry + exclusive_scan(sum, scratch, total);
    if (e < experts) offsets[e] = before;
    carry += total;
  }
  if (threadIdx.x == 0) offsets[experts] = carry;
}

struct Order {
  const int *ids, *block_counts, *offsets;
  std::int64_t n, rows;
  int experts, slots;
  int *sources, *assignments, *positions;
};
__global__ void __launch_bounds__(order_warps* warp_size) sort_blocks(const Order o) {
  extern __shared__ int counts[];
  const std::int64_t begin = blockIdx.x * block_assignments, end = min(o.n, begin + block_assignments);
  const int* earlier = o.block_counts + static_cast<std::int64_t>(blockIdx.x) * o.experts;
  rank_stably(
      o.ids, begin, end, o.experts, counts, [&](int e) { return o.offsets[e] + earlier[e]; },
      [&](std::int64_t a, int id, int row) {
        o.positions[a] = id < 0 ? -1 : row;
        if (id < 0 || row >= o.rows) return;
        o.assignments[row] = static_cast<int>(a);
        o.sources[row] = static_cast<int>(a / o.slots);
      });
}

__global__ void list_owners_kernel(const int* ids, std::int64_t tokens, int slots, int local_experts, int most,
                                   int ep, int* owners, unsigned long long* assignments) {
  extern __shared__ int counts[];
  for (int e = threadIdx.x; e < ep; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (t < tokens) {
    int found = 0;
    int* own = owners + t * most;
    for (int slot = 0; slot < slots; ++slot) {
      const int id = ids[t * slots + slot];
      if (id < 0) continue;
      const int owner = id / local_experts;
      atomicAdd(&counts[owner], 1);
      bool seen = false;
      for (int i = 0; i < found; ++i) seen |= own[i] == owner;
      if (!seen) own[found++] = owner;
    }
    for (; found < most; ++found) own[found] = -1;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < ep; e += blockDim.x) {
    if (counts[e] > 0) atomicAdd(&assignments[e], static_cast<unsigned long long>(counts[e]));
  }
}

__global__ void count_destinations_kernel(const int* offsets, const std::int64_t* assignments, int copies,
                                          int ranks, std::int64_t* counts) {
  const int rank = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (rank >= ranks) return;
  const int owner = rank / copies;
  counts[rank] = (offsets[owner + 1] - offsets[owner]) + (assignments[owner] << 32);
}

struct Plan {
  const int *ids, *owners, *offsets, *order;
  std::int64_t n;  // tokens * most
  int slots, most, local_experts, copies;
  int *tokens, *local_ids, *positions;
};
__global__ void plan_rows_kernel(const Plan p) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.n) return;
  const int owner = p.owners[i];
  const std::int64_t t = i / p.most;
  for (int copy = 0; copy < p.copies; ++copy) {
    if (owner < 0) {
      p.positions[i * p.copies + copy] = -1;
      continue;
    }
    // Rows of earlier owners, for each of their ranks; of this owner's earlier ranks; of earlier tokens.
    const std::int64_t first = p.offsets[owner], count = p.offsets[owner + 1] - first;
    const std::int64_t row = first * p.copies + count * copy + (p.order[i] - first);
    p.positions[i * p.copies + copy] = static_cast<int>(row);
    p.tokens[row] = static_cast<int>(t);
    for (int slot = 0; slot < p.slots; ++slot) {
      const int id = p.ids[t * p.slots + slot];
      p.local_ids[row * p.slots + slot] =
          id >= 0 && id / p.local_experts == owner ? id - owner * p.local_experts : -1;
    }
  }
}

constexpr int block = 256;
unsigned blocks_for(std::int64_t n) {
  return static_cast<unsigned>(ceil_div(n, block));
}
int narrow(std::int64_t n) {
  return static_cast<int>(n);
}

}  // namespace

void order_by_expert(const Stream& stream, const cpu::OrderByExpert& args) {
  const std::int64_t n = args.ids.numel(), experts = args.offsets.numel() - 1,
                     blocks = ceil_div(n, block_assignments);
  HYSPARSE_CHECK(n < INT32_MAX, "{} assignments", n);
  const Tensor counts = Tensor::empty({blocks, experts}, DType::i32, args.ids.device());
  const int* ids = device_data<int>(args.ids);
  int *block_counts = device_data<int>(counts), *offsets = device_data<int>(args.offsets);
  launch(stream, {dim3(narrow(blocks)), dim3(block), ranking_bytes(1, experts)}, count_blocks, ids, n,
         narrow(experts), block_counts);
  launch(stream, {dim3(1), dim3(scan_threads)}, scan_counts, block_counts, narrow(blocks), narrow(experts),
         offsets);
  const int warps = ranking_warps(experts, order_warps);
  launch(stream, {dim3(narrow(blocks)), dim3(warps * warp_size), ranking_bytes(warps, experts)}, sort_blocks,
         Order{ids, block_counts, offsets, n, args.sources.numel(), narrow(experts), narrow(args.ids.dim(1)),
               device_data<int>(args.sources), device_data<int>(args.assignments),
               device_data<int>(args.positions)});
}

void list_owners(const Stream& stream, const Tensor& ids, std::int64_t local_experts, const Tensor& owners,
                 const Tensor& assignments) {
  assignments.zero_();
  launch(stream, {dim3(blocks_for(ids.dim(0))), dim3(block), ranking_bytes(1, assignments.numel())},
         list_owners_kernel, device_data<int>(ids), ids.dim(0), narrow(ids.dim(1)), narrow(local_experts),
         narrow(owners.dim(1)), narrow(assignments.numel()), device_data<int>(owners),
         reinterpret_cast<unsigned long long*>(device_data<std::int64_t>(assignments)));
}

void count_destinations(const Stream& stream, const Tensor& offsets, const Tensor& assignments,
                        std::int64_t copies, const Tensor& counts) {
  launch(stream, {dim3(blocks_for(counts.numel())), dim3(block)}, count_destinations_kernel,
         device_data<int>(offsets), device_data<std::int64_t>(assignments), narrow(copies),
         narrow(counts.numel()), device_data<std::int64_t>(counts));
}

void plan_rows(const Stream& stream, const cpu::PlanRows& args) {
  const std::int64_t n = args.owners.numel();
  launch(stream, {dim3(blocks_for(n)), dim3(block)}, plan_rows_kernel,
         Plan{device_data<int>(args.ids), device_data<int>(args.owners), device_data<int>(args.offsets),
              device_data<int>(args.owner_positions), n, narrow(args.ids.dim(1)), narrow(args.owners.dim(1)),
              narrow(args.local_experts), narrow(args.copies), device_data<int>(args.tokens),
              device_data<int>(args.local_ids), device_data<int>(args.positions)});
}

}  // namespace hysparse::cuda
