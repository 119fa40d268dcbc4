/// The inverse of the block lists. A bit per token and list is set in any order; the tokens of a list are its
/// set bits in order, so the result depends on the lists alone.
#include <algorithm>

#include "attention/cuda/backward.cuh"
#include "attention/cuda/key_work.h"

namespace hysparse::cuda {
namespace {

constexpr int scan_threads = 1024;

/// bits [lists, words]: token t of the sequence chose the block.
__global__ void set_bits_kernel(Problem p, int lists_per_slab, int words, std::uint32_t* bits) {
  const std::int64_t entries = static_cast<std::int64_t>(p.sequences) * p.query_len * p.num_kv_heads * p.top;
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x; i < entries;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    const std::int64_t list = i / p.top, row = list / p.num_kv_heads;
    if (i - list * p.top >= p.counts[list]) continue;
    const int group = static_cast<int>(list - row * p.num_kv_heads);
    const int sequence = static_cast<int>(row / p.query_len), token = static_cast<int>(row % p.query_len);
    const std::int64_t to =
        (static_cast<std::int64_t>(sequence) * p.num_kv_heads + group) * lists_per_slab + p.blocks[i];
    atomicOr(bits + to * words + token / 32, 1u << (token % 32));
  }
}

/// counts[list] = set bits; a warp per list.
__global__ void count_bits_kernel(int lists, int words, const std::uint32_t* bits, int* counts) {
  const int list = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / warp_size;
  if (list >= lists) return;
  int count = 0;
  for (int w = static_cast<int>(threadIdx.x) % warp_size; w < words; w += warp_size)
    count += __popc(bits[static_cast<std::int64_t>(list) * words + w]);
  count = warp_sum(count);
  if (threadIdx.x % warp_size == 0) counts[list] = count;
}

/// Sum over the threads before this one; total over all. One block of scan_threads.
__device__ int exclusive_sum(int x, int* shared, int& total) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  int inclusive = x;
#pragma unroll
  for (int offset = 1; offset < warp_size; offset *= 2) {
    const int other = __shfl_up_sync(all_lanes, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == warp_size - 1) shared[warp] = inclusive;
  __syncthreads();
  int before = 0, all = 0;
  for (int w = 0; w < scan_threads / warp_size; ++w) {
    before += w < warp ? shared[w] : 0;
    all += shared[w];
  }
  __syncthreads();
  total = all;
  return before + inclusive - x;
}

/// span_tokens without documents: no less than with them.
int most_span_tokens(const Problem& p, int index, int list_keys) {
  const std::int64_t first = std::int64_t{index} * list_keys,
                     last = std::min<std::int64_t>(first + list_keys, p.query_len) - 1;
  return static_cast<int>(std::min<std::int64_t>(p.query_len, last + p.window) - first);
}

/// The three starts from the counts (null: those of spans).
__global__ void __launch_bounds__(scan_threads)
    scan_kernel(Problem p, KeyWorkView work, const int* counts, int* token_start, int* item_start,
                int* slot_start) {
  __shared__ int shared[scan_threads / warp_size];
  int tokens = 0, items = 0, slots = 0;
  for (int first = 0; first < work.lists; first += scan_threads) {
    const int list = first + static_cast<int>(threadIdx.x);
    int count = 0, chunks = 0;
    if (list < work.lists) {
      const int slab = list / work.lists_per_slab;
      count = counts != nullptr
                  ? counts[list]
                  : span_tokens(p, slab / p.num_kv_heads, (list - slab * work.lists_per_slab) * work.list_keys,
                                work.list_keys);
      chunks = max(1, (count + work.chunk - 1) / work.chunk);
    }
    int token_total, item_total, slot_total;
    const int token_at = tokens + exclusive_sum(count, shared, token_total);
    const int item_at = items + exclusive_sum(chunks, shared, item_total);
    const int slot_at = slots + exclusive_sum(chunks > 1 ? chunks : 0, shared, slot_total);
    if (list < work.lists) {
      if (token_start != nullptr) token_start[list] = token_at;
      item_start[list] = item_at;
      slot_start[list] = slot_at;
    }
    tokens += token_total;
    items += item_total;
    slots += slot_total;
  }
  if (threadIdx.x == 0) {
    if (token_start != nullptr) token_start[work.lists] = tokens;
    item_start[work.lists] = items;
    slot_start[work.lists] = slots;
  }
}

/// tokens of each list; a warp per list.
__global__ void list_tokens_kernel(int lists, int words, const std::uint32_t* bits, const int* token_start,
                                   std::int32_t* tokens) {
  const int list = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  if (list >= lists) return;
  int at = token_start[list];
  for (int first = 0; first < words; first += warp_size) {
    std::uint32_t word =
        first + lane < words ? bits[static_cast<std::int64_t>(list) * words + first + lane] : 0;
    int inclusive = __popc(word);
#pragma unroll
    for (int offset = 1; offset < warp_size; offset *= 2) {
      const int other = __shfl_up_sync(all_lanes, inclusive, offset);
      if (lane >= offset) inclusive += other;
    }
    int to = at + inclusive - __popc(word);
    for (; word != 0; word &= word - 1) tokens[to++] = (first + lane) * 32 + __ffs(word) - 1;
    at += __shfl_sync(all_lanes, inclusive, warp_size - 1);
  }
}

/// Tokens of a chunk, so that the GPU's thread blocks have a few chunks each and partial sums stay few.
int chunk_tokens(const Problem& p, std::int64_t list_tokens, std::int64_t usual) {
  constexpr std::int64_t least_rows = 4096;
  const std::int64_t workers = properties().multiprocessors * std::int64_t{2};
  const std::int64_t even = ceil_div(list_tokens, 4 * workers);
  const std::int64_t wanted = std::max({even, ceil_div(least_rows, p.group_size()), usual});
  return static_cast<int>(std::min<std::int64_t>(wanted, 1 << 30));
}

}  // namespace

KeyWork make_key_work(const Stream& stream, const Problem& p, bool cut) {
  const bool blocks = p.blocks != nullptr;
  const std::int64_t slabs = std::int64_t{p.sequences} * p.num_kv_heads;
  KeyWork work;
  KeyWorkView& view = work.view;
  view.list_keys = blocks ? p.block_size : key_tile;
  view.lists_per_slab = static_cast<int>(ceil_div(p.query_len, view.list_keys));
  view.lists = static_cast<int>(slabs * view.lists_per_slab);
  const std::int64_t entries = blocks ? p.query_rows() * p.num_kv_heads * p.top : 0;
  HYSPARSE_CHECK(entries < (std::int64_t{1} << 31), "{} entries of block lists", entries);

  view.chunk = 1 << 30;
  work.max_items = view.lists;
  if (cut && blocks) {
    view.chunk = chunk_tokens(p, entries, std::int64_t{2} * p.top * p.block_size);
    work.max_items += entries / view.chunk;
    work.max_slots = 2 * (entries / view.chunk);
  } else if (cut) {
    std::int64_t total = 0;
    for (int i = 0; i < view.lists_per_slab; ++i) total += most_span_tokens(p, i, view.list_keys);
    view.chunk = chunk_tokens(p, total * slabs, 0);
    work.max_items = 0;
    for (int i = 0; i < view.lists_per_slab; ++i) {
      const std::int64_t chunks = ceil_div(most_span_tokens(p, i, view.list_keys), view.chunk);
      work.max_items += slabs * std::max<std::int64_t>(chunks, 1);
      work.max_slots += chunks > 1 ? slabs * chunks : 0;
    }
  }

  const auto integers = [&](std::int64_t n) { return Tensor::empty({n}, DType::i32, stream.device); };
  work.item_start = integers(view.lists + 1);
  work.slot_start = integers(view.lists + 1);
  const unsigned list_warps = static_cast<unsigned>(ceil_div(view.lists, 8));
  const int words = static_cast<int>(ceil_div(p.query_len, 32));
  Tensor bits, counts;
  if (blocks) {
    bits = Tensor::zeros({view.lists, words}, DType::i32, stream.device);
    counts = integers(view.lists);
    work.token_start = integers(view.lists + 1);
    work.tokens = integers(std::max<std::int64_t>(entries, 1));
    auto* bit_words = reinterpret_cast<std::uint32_t*>(device_data<std::int32_t>(bits));
    launch(stream, {dim3(grid_for(entries, 256)), dim3(256)}, set_bits_kernel, p, view.lists_per_slab, words,
           bit_words);
    launch(stream, {dim3(list_warps), dim3(256)}, count_bits_kernel, view.lists, words, bit_words,
           device_data<std::int32_t>(counts));
  }
  launch(stream, {dim3(1), dim3(scan_threads)}, scan_kernel, p, view, device_data_or_null<std::int32_t>(counts),
         device_data_or_null<std::int32_t>(work.token_start), device_data<std::int32_t>(work.item_start),
         device_data<std::int32_t>(work.slot_start));
  if (blocks) {
    launch(stream, {dim3(list_warps), dim3(256)}, list_tokens_kernel, view.lists, words,
           reinterpret_cast<std::uint32_t*>(device_data<std::int32_t>(bits)),
           device_data<std::int32_t>(work.token_start), device_data<std::int32_t>(work.tokens));
  }
  view.token_start = device_data_or_null<std::int32_t>(work.token_start);
  view.tokens = device_data_or_null<std::int32_t>(work.tokens);
  view.item_start = device_data<std::int32_t>(work.item_start);
  view.slot_start = device_data<std::int32_t>(work.slot_start);
  return work;
}

}  // namespace hysparse::cuda
